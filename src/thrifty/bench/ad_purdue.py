"""The example of Siskind & Pearlmutter (2018): an inner loop of varying length; n = 1000, phi = 3.

For i = 1..l an inner loop of m = 2^(ilog2(l) - ilog2(1 + (1013 * 3^phi * i mod l))) turns; each turn rotates the pairs
of x by 1.2 y and then the shifted pairs by 1.4 y, with y = |x|. Rotations keep |x|, so f = |x|^2 / 2 and its gradient
is x exactly: `gradient_error` is the largest difference from that. The published table is in the settings, for the
ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

LENGTHS = (53, 211, 809, 1601, 3203)
# l -> seconds of the published implementation with bisection checkpointing, and its peak in bytes (raw table, 2018)
PUBLISHED = {53: (47.7, 11.6e6), 211: (313.0, 14.6e6), 809: (1676.0, 18.2e6), 1601: (3698.0, 18.1e6),
             3203: (8495.0, 18.1e6)}  # fmt: skip
SIZE = 1000
PHI = 3
MEMORIES = ("log", "4MiB")


@benchmark("ad-purdue", "the example of the 2018 paper: time and peak of its gradient, plain and checkpointed")
def run(quick: bool, console: Console) -> BenchResult:
    """Measure l = 53 to 3203."""
    import torch

    from thrifty import grad
    from thrifty.autodiff.meter import LiveMeter

    torch.manual_seed(0)
    x = torch.randn(SIZE, dtype=torch.float64)
    rows = []
    for length in LENGTHS[:2] if quick else LENGTHS:
        program = _program(length)
        plain = _plain(program)
        arms = {"plain": plain} | {memory: grad(program, memory=memory) for memory in MEMORIES}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        found, peaks = {}, {}
        for _ in range(2):
            for name, call in arms.items():
                start = time.perf_counter()
                found[name] = call(x)
                seconds[name].append(time.perf_counter() - start)
        for name, call in arms.items():
            with LiveMeter() as meter:
                call(x)
            peaks[name] = meter.peak_bytes
        plain_s, published_s = min(seconds["plain"]), PUBLISHED[length][0]
        for memory in MEMORIES:
            account, ours_s = arms[memory].account, min(seconds[memory])
            rows.append({
                "l": length, "memory": memory, "operations": account.operations, "plain_s": plain_s,
                "checkpointed_s": ours_s, "time_factor": ours_s / plain_s, "plain_peak_bytes": peaks["plain"],
                "checkpointed_peak_bytes": peaks[memory], "record_bytes": account.record_bytes,
                "gradient_error": float((found[memory] - x).abs().max()), "published_s": published_s,
                "published_ratio": published_s / ours_s,
            })  # fmt: skip
        console.print(f"l = {length}: {rows[-1]['operations']:,} operations")
    summary = {
        "peak_growth": max(
            rows[at - len(MEMORIES)]["checkpointed_peak_bytes"] / rows[at]["checkpointed_peak_bytes"]
            for at in range(len(MEMORIES))
        ),
        "max_time_factor": max(row["time_factor"] for row in rows),
        "max_gradient_error": max(row["gradient_error"] for row in rows),
        "min_published_ratio": min(row["published_ratio"] for row in rows),
    }
    settings = {"n": SIZE, "phi": PHI, "dtype": "float64", "published": {str(k): v for k, v in PUBLISHED.items()}}
    columns = ("l", "memory", "operations", "plain_s", "checkpointed_s", "time_factor", "plain_peak_bytes",
               "checkpointed_peak_bytes", "gradient_error", "published_ratio")  # fmt: skip
    return BenchResult(settings, rows, summary, columns)


def _program(length: int) -> Callable[[Tensor], Tensor]:
    def ilog2(number: int) -> int:
        return number.bit_length() - 1

    def program(x: Tensor) -> Tensor:
        for turn in range(1, length + 1):
            inner = 2 ** (ilog2(length) - ilog2(1 + (1013 * 3**PHI * turn) % length))
            for _ in range(inner):
                y = (x * x).sum().sqrt()
                x = _rotate(x, 1.2 * y)
                x = _rotate(x.roll(-1), 1.4 * y).roll(1)
        return (x * x).sum() / 2

    return program


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate the pairs (x1, x2), (x3, x4), ... by an angle."""
    import torch

    cosine, sine = angle.cos(), angle.sin()
    a, b = x.view(-1, 2).unbind(1)
    return torch.stack((cosine * a - sine * b, sine * a + cosine * b), 1).view(-1)


def _plain(program: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    import torch

    def call(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(program(leaf), leaf)[0]

    return call
