"""Named side-by-side benchmarks: each prints a table and can write one JSON object."""
