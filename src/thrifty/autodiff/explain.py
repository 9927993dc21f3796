"""What a checkpointed derivative does: its plan and what it came to, as a table and as a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thrifty.autodiff.budget import Memory, parse_memory
from thrifty.autodiff.checkpointed import Account, CheckpointedRun, Lengths
from thrifty.autodiff.explain_step import StepExplanation, explain_step
from thrifty.autodiff.meter import LiveMeter
from thrifty.autodiff.revolve import forward_steps
from thrifty.autodiff.trees import Call, check_scalar
from thrifty.core.errors import UsageError


@dataclass(frozen=True)
class Explanation:
    """One gradient, run with and without checkpoints.

    Attributes:
        memory: as given.
        account: what the checkpointed run did; `account.events` its schedule.
        optimum_steps: the fewest forward steps for as many snapshots, if all steps were equal.
        predicted_bytes: peak by the plan: snapshots, a taped step and what the run itself keeps.
        peak_bytes, plain_peak_bytes: measured peak of tensors, with and without checkpoints.
        seconds, plain_s: measured, one run each.
    """

    memory: Memory
    account: Account
    optimum_steps: int
    predicted_bytes: int
    peak_bytes: int
    plain_peak_bytes: int
    seconds: float
    plain_s: float

    @property
    def time_factor(self) -> float:
        """Seconds with checkpoints over seconds without."""
        return self.seconds / self.plain_s

    def rows(self) -> list[tuple[str, str]]:
        """The table: what and how much."""
        account = self.account
        return [
            ("memory", str(self.memory)),
            ("steps of the run", f"{account.steps:,}"),
            ("operations of the run", f"{account.operations:,}"),
            ("snapshots, at most", f"{account.snapshots:,}"),
            ("forward steps", f"{account.forward_steps:,}"),
            ("forward steps, optimum", f"{self.optimum_steps:,}"),
            ("operations replayed", f"{account.replayed_ops:,}"),
            ("operations taped", f"{account.taped_ops:,}"),
            ("record", f"{account.record_bytes:,} bytes"),
            ("peak, predicted", f"{self.predicted_bytes:,} bytes"),
            ("peak, measured", f"{self.peak_bytes:,} bytes"),
            ("peak without checkpoints", f"{self.plain_peak_bytes:,} bytes"),
            ("time factor, one run", f"{self.time_factor:.2f}"),
        ]

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows())
        return "\n".join(f"{what:<{width}}  {value}" for what, value in self.rows())

    def save(self, path: str | Path) -> None:
        """Draw the schedule, steps over time, into a picture (.svg or .png)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        at = self.account.steps
        axes.plot([0, at], [0, at], color="tab:blue", label="recorded run")
        labels = {"advance": ("tab:orange", "replayed"), "tape": ("tab:green", "taped and reversed")}
        for what, start, stop, _ in self.account.events or []:
            colour, label = labels[what]
            axes.plot([at, at + stop - start], [start, stop], color=colour, label=label)
            labels[what] = (colour, "_")
            at += stop - start
        axes.set(xlabel="steps run", ylabel="place in the program", title=f"memory={self.memory}")
        axes.legend()
        figure.savefig(path)


def explain(f: Callable[..., Any], *args: Any, memory: Memory, argnum: int = 0) -> Explanation | StepExplanation:
    """Take the gradient of f at args twice, with `memory` and without, and tell what happened.

    Without args, f is a training step, which calls `backward()` itself: see `explain_step`.

    Args:
        f: returns a real scalar tensor.
        args: its arguments. argnum: the one to differentiate.
        memory: as in `thrifty.grad`, not None.

    Raises:
        UsageError: memory is None, and whatever `thrifty.grad` raises.
    """
    if not args:
        return explain_step(f, memory)
    budget = parse_memory(memory)
    if budget is None:
        raise UsageError("explain: memory=None has no plan to explain; give bytes, 'log' or a number of snapshots")
    call = Call("explain", f, args, {}, argnum)

    def run(leaves: list[torch.Tensor]) -> torch.Tensor:
        output = call.run(leaves)
        check_scalar("explain", output)
        return output

    with LiveMeter() as plain_meter:
        start = time.perf_counter()
        leaves = [leaf.detach().requires_grad_() for leaf in call.leaves]
        torch.autograd.grad(run(leaves), leaves, allow_unused=True)
        plain_s = time.perf_counter() - start
    with LiveMeter() as meter:
        start = time.perf_counter()
        started = CheckpointedRun(run, call.leaves, budget, Lengths())
        started.account.events = []
        started.pull_back([started.result], [torch.ones_like(started.result)])
        seconds = time.perf_counter() - start
    account = started.account
    predicted = account.snapshots * account.snapshot_bytes + 3 * account.largest_step_bytes + account.peak_live_bytes
    optimum = forward_steps(account.steps, account.snapshots)
    return Explanation(memory, account, optimum, predicted, meter.peak_bytes, plain_meter.peak_bytes, seconds, plain_s)
