"""What recording costs an operation: tiny operations in an eager loop, with and without the modes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console


@benchmark(
    "ad-overhead", "microseconds that recording adds to an operation, and a large-tensor program below its limit"
)
def run(quick: bool, console: Console) -> BenchResult:
    """Time chains of tiny operations, and of large ones."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from thrifty.autodiff import checkpointing
    from thrifty.autodiff.placement import Online
    from thrifty.autodiff.recorder import Recorder
    from thrifty.bench.timing import interleave, median_min_max

    class Nothing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    count = 2000 if quick else 10_000
    tiny = torch.ones(4)

    def loop() -> None:
        x = tiny
        for _ in range(count):
            x = x.sin()

    def under(make: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            with make():
                loop()

        return call

    arms = {
        "eager": loop,
        "empty dispatch mode": under(Nothing),
        "recording": under(lambda: Recorder(lambda recorder: None)),
        "recording, 10 snapshots": under(lambda: Recorder(Online(lambda recorder, _: len(recorder.snapshots) >= 10))),
    }
    timed = interleave(arms, 3 if quick else 7, clock=time.process_time)
    eager = median_min_max(timed["eager"]).median
    rows: list[dict[str, Any]] = []
    for name, seconds in timed.items():
        spread = median_min_max(seconds)
        rows.append({"what": name, "op_s": spread.median / count, "added_s": (spread.median - eager) / count})
    large = torch.randn(1 << 20)
    leaf = large.clone().requires_grad_()

    def train() -> None:
        x = leaf
        for _ in range(20):
            x = torch.sin(1.01 * x) + 0.1 * torch.tanh(x)
        x.sum().backward()

    def train_below_limit() -> None:
        with checkpointing("8GiB"):
            train()

    timed = interleave({"plain": train, "checkpointing": train_below_limit}, 3 if quick else 7, clock=time.process_time)
    plain, ours = (median_min_max(timed[name]).median for name in ("plain", "checkpointing"))
    rows.append({"what": "large tensors, limit not reached", "op_s": ours / 100, "added_s": (ours - plain) / 100})
    summary = {"recording_added_s": rows[2]["added_s"], "large_factor": ours / plain}
    return BenchResult({"operations": count, "quick": quick}, rows, summary)
