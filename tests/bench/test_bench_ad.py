"""The autodiff benchmarks run, and what they count (not time) is what the method promises."""

import io

import pytest
from rich.console import Console

from thrifty.bench.registry import load


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.mark.slow
def test_nested_bench_counts(quiet):
    result = load("ad-nested").run(quick=True, console=quiet)
    assert result.summary["max_error"] < 1e-4
    assert result.summary["hvp_most_peak_tensors"] <= 90
