"""The seconds of a training step of each arm of `lsh-next-item`, in turn in one process, where their trainings ended.

Runs are trained at other times and on a machine that others use, so their own seconds do not compare; these do.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thrifty.bench.next_item_runs import Run

# steps an arm's turn: the lazy arms look at the drift of their tables every 64 steps, and refresh them every 8
PER_TURN = {"full": 1, "adaptive": 1}
LAZY_PER_TURN = 8
WARM = 8  # steps of each arm that are not counted


def clock(runs: Mapping[str, Run], turns: int) -> dict[str, dict[str, float]]:
    """Seconds of a step by arm: `step_s` (the median), `step_mean_s`, `step_min_s`, `step_max_s`, `steps`.

    The mean holds the upkeep of the tables as well. Nothing of the runs is changed.
    """
    ready = {arm: run.start()[:2] for arm, run in runs.items()}
    seconds: dict[str, list[float]] = {arm: [] for arm in runs}
    for turn in range(-1, turns):
        for arm, (trained, order) in ready.items():
            steps = WARM if turn < 0 else PER_TURN.get(arm, LAZY_PER_TURN)
            taken = [trained.train(*order.next()) for _ in range(steps)]
            seconds[arm] += taken if turn >= 0 else []
    return {
        arm: {"step_s": statistics.median(taken), "step_mean_s": statistics.fmean(taken), "step_min_s": min(taken),
              "step_max_s": max(taken), "steps": len(taken)}
        for arm, taken in seconds.items()
    }  # fmt: skip
