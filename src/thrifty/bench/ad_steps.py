"""A uniform chain x <- sin(1.01 x) + 0.1 tanh(x): operations and peak memory of its gradient, against peers.

Peers: plain autograd, torch.utils.checkpoint with segments of sqrt(n) steps, and bisection by nested calls of it. One
tensor has 4096 float32 numbers. `forward_ops` counts steps advanced, as the literature does; `optimum_ops` is
revolve's. Operations and peaks are counted by a dispatch mode below everything, in a run of its own; `s` is timed
without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

WIDTH = 4096


@benchmark(
    "ad-steps", "gradient of a uniform chain of up to a million steps: operations and peak, against checkpointing"
)
def run(quick: bool, console: Console) -> BenchResult:
    """Measure chains of growing length."""
    import torch

    rows: list[dict[str, Any]] = []
    torch.manual_seed(0)
    x = torch.randn(WIDTH)
    for n in (128, 1024) if quick else (128, 1024, 10_000, 100_000):
        if n <= 1024:
            for name, peer in _peers(n).items():
                rows.append(_measure(n, name, partial(peer, x), None))
        for memory in (10, 22, 66, "log") if n <= 1024 else ("log",):
            rows.append(_ours(n, memory, x))
    small = torch.randn(1)
    for n in (1000, 20_000) if quick else (1000, 1_000_000):
        rows.append(_ours(n, "log", small) | {"width": 1})
    by = {(row["n"], row["memory"]): row for row in rows}
    exact = [row for row in rows if isinstance(row["snapshots"], int) and row["n"] == 1024]
    least, most = rows[-2], rows[-1]
    summary = {
        "forward_over_optimum_known_length": max(row["forward_ops"] / row["optimum_ops"] for row in exact),
        "log_peak_tensors_1024": by[1024, "log"]["peak_tensors"],
        "log_ops_factor_1024": by[1024, "log"]["ops"] / by[1024, "plain"]["ops"],
        "log_peak_growth": most["peak_tensors"] / least["peak_tensors"],
        "record_bytes_per_op": most["record_bytes"] / most["recorded_ops"],
    }
    columns = ("n", "memory", "forward_ops", "optimum_ops", "ops", "peak_tensors", "peak_bytes", "record_bytes", "s")
    return BenchResult({"width": WIDTH, "dtype": "float32", "quick": quick}, rows, summary, columns)


def step(x: Tensor) -> Tensor:
    """One step of the chain: five operations."""
    import torch

    return torch.sin(1.01 * x) + 0.1 * torch.tanh(x)


def _chain(n: int) -> Callable[[Tensor], Tensor]:
    def chain(x: Tensor) -> Tensor:
        for _ in range(n):
            x = step(x)
        return x.sum()

    return chain


def _ours(n: int, memory: int | str, x: Tensor) -> dict[str, Any]:
    from thrifty import grad
    from thrifty.autodiff.revolve import forward_steps

    gradient = grad(_chain(n), memory=memory)
    gradient(x)
    first = gradient.account  # type: ignore[attr-defined]
    row = _measure(n, str(memory), lambda: gradient(x), x)
    account = gradient.account  # type: ignore[attr-defined]
    allowed = account.snapshots - 1 if isinstance(memory, str) else memory
    return row | {
        "forward_ops": account.forward_steps,
        "forward_ops_unknown_length": first.forward_steps,
        "optimum_ops": forward_steps(account.steps, allowed),
        "snapshots": memory,
        "record_bytes": account.record_bytes,
        "recorded_ops": account.operations,
    }


def _measure(n: int, name: str, call: Callable[[], Any], timed: Tensor | None) -> dict[str, Any]:
    from thrifty.autodiff.meter import LiveMeter

    width = 1 if timed is None else timed.numel()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    with LiveMeter(least_bytes=WIDTH * 4 if width == WIDTH or timed is None else 1) as meter:
        call()
    return {
        "n": n, "memory": name, "forward_ops": None, "optimum_ops": None, "snapshots": None, "ops": meter.operations,
        "peak_tensors": meter.peak_tensors, "peak_bytes": meter.peak_bytes, "record_bytes": None, "s": seconds,
    }  # fmt: skip


def _peers(n: int) -> dict[str, Callable[[Tensor], Any]]:
    import torch
    from torch.utils.checkpoint import checkpoint

    def steps(x: Tensor, count: int) -> Tensor:
        for _ in range(count):
            x = step(x)
        return x

    def segments(x: Tensor) -> Tensor:
        size = isqrt(n)
        for start in range(0, n, size):
            x = checkpoint(steps, x, min(size, n - start), use_reentrant=False)
        return x

    def bisection(x: Tensor, count: int) -> Tensor:
        if count == 1:
            return step(x)
        half = count // 2
        x = checkpoint(bisection, x, half, use_reentrant=False)
        return checkpoint(bisection, x, count - half, use_reentrant=False)

    def gradient(program: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
        def call(x: Tensor) -> Any:
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(program(leaf).sum(), leaf)

        return call

    return {
        "plain": gradient(lambda x: steps(x, n)),
        "sqrt": gradient(segments),
        "bisection": gradient(lambda x: bisection(x, n)),
    }
