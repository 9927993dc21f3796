"""Second derivatives of long programs: live tensors and time of Hessian-vector products and of a meta-gradient.

The chain is that of `ad-steps` with 128 steps; the meta-gradient is through `T` steps of gradient descent on a small
regression, with respect to the step size and the start. Plain is torch.func without checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

WIDTH = 4096
STEPS = 128


@benchmark("ad-nested", "Hessian-vector products and meta-gradients: live tensors and time, plain and checkpointed")
def run(quick: bool, console: Console) -> BenchResult:
    """Measure all three nestings."""
    import torch

    from thrifty.autodiff.meter import LiveMeter

    torch.manual_seed(0)
    x, v = torch.randn(WIDTH), torch.randn(WIDTH)
    rows = []
    cases: list[tuple[str, str, Callable[[Any], Callable[[], Tensor]]]] = [
        (f"hvp, chain of {STEPS}", nesting, partial(_hvp, nesting, x, v))
        for nesting in ("reverse over reverse", "forward over reverse", "reverse over forward")
    ]
    turns = 16 if quick else 64
    cases.append((f"meta-gradient, {turns} steps", "reverse over reverse", partial(_meta, turns)))
    for case, nesting, make in cases:
        reference: dict[str, float] = {}
        expected = None
        for memory in (None, 4, "log"):
            call = make(memory)
            start = time.perf_counter()
            found = call()
            seconds = time.perf_counter() - start
            with LiveMeter(least_bytes=WIDTH * 4) as meter:
                call()
            expected = found if expected is None else expected
            reference.setdefault("s", seconds)
            rows.append({
                "case": case, "nesting": nesting, "method": "plain" if memory is None else f"memory={memory}",
                "peak_tensors": meter.peak_tensors, "peak_bytes": meter.peak_bytes, "ops": meter.operations,
                "s": seconds,
                "time_factor": seconds / reference["s"],
                "error": float((found - expected).abs().max() / expected.abs().max()),
            })  # fmt: skip
    ours = [row["peak_tensors"] for row in rows if row["case"].startswith("hvp") and row["method"] == "memory=4"]
    summary = {"hvp_most_peak_tensors": max(ours), "max_error": max(row["error"] for row in rows)}
    columns = ("case", "nesting", "method", "peak_tensors", "ops", "time_factor", "error")
    return BenchResult({"width": WIDTH, "steps": STEPS, "dtype": "float32", "quick": quick}, rows, summary, columns)


def _chain(x: Tensor) -> Tensor:
    from thrifty.bench.ad_steps import step

    for _ in range(STEPS):
        x = step(x)
    return (x * x).sum()


def _hvp(nesting: str, x: Tensor, v: Tensor, memory: int | str | None) -> Callable[[], Tensor]:
    from thrifty import grad, jvp

    def reverse_over_reverse() -> Tensor:
        found: Tensor = grad(lambda z: (grad(_chain, memory=memory)(z) * v).sum(), memory=memory)(x)
        return found

    def forward_over_reverse() -> Tensor:
        found: Tensor = jvp(grad(_chain, memory=memory), (x,), (v,))[1]
        return found

    def reverse_over_forward() -> Tensor:
        found: Tensor = grad(lambda z: jvp(_chain, (z,), (v,))[1], memory=memory)(x)
        return found

    calls = {
        "reverse over reverse": reverse_over_reverse,
        "forward over reverse": forward_over_reverse,
        "reverse over forward": reverse_over_forward,
    }
    return calls[nesting]


def _meta(turns: int, memory: int | str | None) -> Callable[[], Tensor]:
    import torch

    from thrifty import grad

    noise = torch.Generator().manual_seed(1)
    inputs, wanted = torch.randn(64, 64, generator=noise), torch.randn(64, 64, generator=noise)

    def loss(weight: Tensor) -> Tensor:
        return ((inputs @ weight).tanh() - wanted).square().mean()

    def trained(start: Tensor) -> Tensor:
        weight = start
        for _ in range(turns):
            weight = weight - 0.5 * grad(loss)(weight)
        return loss(weight)

    start = torch.zeros(64, 64)
    return lambda: grad(trained, memory=memory)(start)
