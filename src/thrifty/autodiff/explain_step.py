"""What `checkpointing` plans for a training step and what came of it, as a table and as a picture."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thrifty.autodiff.budget import Memory, parse_memory
from thrifty.autodiff.meter import LiveMeter
from thrifty.autodiff.plan import Plan
from thrifty.autodiff.training import Checkpointing, checkpointing
from thrifty.core.errors import UsageError

_TURNS = 8


@dataclass(frozen=True)
class StepExplanation:
    """A training step, run plain and within a limit.

    Attributes:
        memory: as given; limit_bytes the same in bytes.
        plan: what was followed in the end; None where the online rule kept on, for the steps differed.
        operations, recomputed_ops: of the forward pass, and those that were called again.
        peak_bytes, plain_peak_bytes: measured peak of the tensors that the step made, with the limit and without.
        seconds, plain_s: measured, one step each.
    """

    memory: Memory
    limit_bytes: int
    plan: Plan | None
    operations: int
    recomputed_ops: int
    peak_bytes: int
    plain_peak_bytes: int
    seconds: float
    plain_s: float

    @property
    def time_factor(self) -> float:
        """Seconds within the limit over seconds without."""
        return self.seconds / self.plain_s

    def rows(self) -> list[tuple[str, str]]:
        """The table: what and how much."""
        rows = [
            ("memory", str(self.memory)),
            ("operations of the forward pass", f"{self.operations:,}"),
            ("operations made again", f"{self.recomputed_ops:,}"),
        ]
        plan = self.plan
        if plan is not None:
            kept = sum(nbytes for nbytes, keep in zip(plan.nbytes, plan.forward, strict=True) if keep)
            rows += [
                ("blocks", f"{len(plan.at):,}"),
                ("kept by the forward pass", f"{kept:,} bytes in {sum(plan.forward):,} contents"),
                ("made again, by plan", f"{plan.again_s:.4f} s of {plan.forward_s:.4f} s"),
                ("peak, predicted", f"{plan.peak_bytes:,} bytes"),
            ]
            again = Counter(operation.name for at, operation in enumerate(plan.operations) if not self._stays(plan, at))
            rows.append(("let go, most often", ", ".join(f"{name} ({n})" for name, n in again.most_common(4)) or "-"))
        return [
            *rows,
            ("peak, measured", f"{self.peak_bytes:,} bytes"),
            ("peak without a limit", f"{self.plain_peak_bytes:,} bytes"),
            ("time factor, one step", f"{self.time_factor:.2f}"),
        ]

    @staticmethod
    def _stays(plan: Plan, at: int) -> bool:
        return any(plan.forward[content] for content in plan.makes[at])

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows())
        return "\n".join(f"{what:<{width}}  {value}" for what, value in self.rows())

    def save(self, path: str | Path) -> None:
        """Draw what is held while each block is reversed into a picture (.svg or .png).

        Raises:
            UsageError: no plan was made.
        """
        if self.plan is None:
            raise UsageError("explain: no plan was made, for the steps differed, so there is none to draw")
        from matplotlib.figure import Figure

        plan = self.plan
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        held = [sum(plan.nbytes[content] for content in contents) / 1e6 for contents in plan.at]
        forward = [
            sum(plan.nbytes[content] for content in contents if plan.forward[content]) / 1e6 for contents in plan.at
        ]
        axes.bar(range(len(held)), held, color="tab:orange", label="made again")
        axes.bar(range(len(held)), forward, color="tab:blue", label="kept since the forward pass")
        axes.axhline(self.limit_bytes / 1e6, color="black", linestyle="--", label="limit")
        axes.set(xlabel="block that is reversed", ylabel="MB held for backward", title=f"memory={self.memory}")
        axes.legend()
        figure.savefig(path)


def explain_step(step: Callable[[], Any], memory: Memory) -> StepExplanation:
    """Run a training step plain and then within a limit until its plan is proven, and tell what happened.

    Args:
        step: a forward pass and its `backward()`, without arguments; it runs up to ten times, so statistics move on.
        memory: bytes, as in `thrifty.checkpointing`.

    Raises:
        UsageError: memory is not given in bytes; MemoryLimitError where the limit is too small.
    """
    budget = parse_memory(memory)
    if budget is None or budget.limit_bytes is None:
        raise UsageError(f"explain: a training step has a plan under a limit in bytes as '512MiB', not {memory!r}")
    limit_bytes = budget.limit_bytes

    def turn() -> Checkpointing:
        with checkpointing(memory) as used:
            step()
        return used

    step()
    with LiveMeter() as plain_meter:
        step()
    start = time.perf_counter()
    step()
    plain_s = time.perf_counter() - start
    for _ in range(_TURNS):
        if turn().proven:
            break
    with LiveMeter() as meter:
        turn()
    start = time.perf_counter()
    used = turn()
    seconds = time.perf_counter() - start
    return StepExplanation(
        memory, limit_bytes, used.plan, used.operations, used.recomputed_ops, meter.peak_bytes, plain_meter.peak_bytes,
        seconds, plain_s,
    )  # fmt: skip
