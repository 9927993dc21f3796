"""Step time and scaling efficiency by the number of workers, for every all-reduce algorithm and merge rule.

A step is a forward pass and what lasts longer, the backward pass or its transfers: forward_s + end of the last
transfer. Efficiency is the compute time over that: all workers have the same batch (weak scaling), no worker waits for
data, and all are equally fast; `stragglers` takes the last assumption away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thrifty.core.errors import UsageError
from thrifty.distributed.collectives import ALGORITHMS, FLAT, HIERARCHICAL, Link, group_sizes, hierarchical
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.overlap import dear_s, split_optimum_s
from thrifty.distributed.plan import DEAR, OPTIMAL, SPLIT_OPTIMAL, make_plan
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import RIVALS

MOST_WORKERS = 4096
RULES = (OPTIMAL, *RIVALS, SPLIT_OPTIMAL, DEAR)


@dataclass(frozen=True)
class Point:
    """One number of workers under one algorithm and rule.

    Attributes:
        workers: that share a step.
        algorithm: of the all-reduce.
        group: workers in a group of the hierarchical one, else 1.
        rule: by which gradients are merged.
        buckets: transfers a step; 0 for the schedules that part the all-reduce.
        step_s: of forward and backward pass with all transfers.
        efficiency: compute time over `step_s`.
    """

    workers: int
    algorithm: str
    group: int
    rule: str
    buckets: int
    step_s: float
    efficiency: float


def sweep(
    profile: GradientProfile,
    link: Link,
    workers: Sequence[int],
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    rules: Sequence[str] = RULES,
    group: int | None = None,
    in_flight: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """Simulate a step for each number of workers, algorithm and rule.

    Args:
        profile: of one worker.
        link: between workers.
        workers: 1 to `MOST_WORKERS`.
        algorithms: keys of `ALGORITHMS`.
        rules: of `RULES`.
        group: workers in a group for the hierarchical all-reduce; None takes for each number of workers the size whose
            optimal plan ends first. Numbers that it does not divide are left out.
        in_flight: transfers at a time.
        progress: called with a word on what comes next.

    Raises:
        UsageError: a number of workers, an algorithm, a rule or a group that there is not.
    """
    _check(workers, algorithms, rules, group)
    points = []
    for count in workers:
        for algorithm in algorithms:
            progress(f"{count} workers, {algorithm}")
            size = _group(profile, link, count, group, in_flight) if algorithm == HIERARCHICAL else 1
            if size:
                cost = transfer_cost(algorithm, count, link, size)
                points += [_point(profile, cost, count, algorithm, size, rule, in_flight) for rule in rules]
    return points


def transfer_cost(algorithm: str, workers: int, link: Link, group: int = 1) -> TransferCost:
    """The cost of an all-reduce over `workers`, by the name of the algorithm."""
    return hierarchical(workers, link, group) if algorithm == HIERARCHICAL else FLAT[algorithm](workers, link)


def _group(profile: GradientProfile, link: Link, workers: int, group: int | None, in_flight: int) -> int:
    """The size of a group, 0 where the one asked for does not divide the workers."""
    if group is not None:
        return group if workers % group == 0 else 0
    # Start-up and bytes both turn with k, so whole plans are compared; sizes far beyond sqrt(n) never win.
    sizes = [k for k in group_sizes(workers) if k * k <= 4 * workers] or [1]
    costs = {k: hierarchical(workers, link, k) for k in sizes}
    return min(costs, key=lambda k: make_plan(profile, costs[k], in_flight=in_flight).predicted_s)


def _point(
    profile: GradientProfile, cost: TransferCost, workers: int, algorithm: str, group: int, rule: str, in_flight: int
) -> Point:
    if workers == 1:
        return Point(1, algorithm, 1, rule, 0, profile.compute_s, 1.0)
    buckets = 0
    if rule == DEAR:
        over_s = dear_s(profile, cost, in_flight)
    elif rule == SPLIT_OPTIMAL:
        over_s = split_optimum_s(profile, cost, in_flight)
    else:
        plan = make_plan(profile, cost, in_flight=in_flight, rule=rule)
        over_s, buckets = plan.predicted_s, len(plan.buckets)
    step_s = profile.forward_s + max(over_s, profile.backward_s)
    return Point(workers, algorithm, group, rule, buckets, step_s, profile.compute_s / step_s)


def _check(workers: Sequence[int], algorithms: Sequence[str], rules: Sequence[str], group: int | None) -> None:
    if not workers or not all(type(count) is int and 1 <= count <= MOST_WORKERS for count in workers):
        raise UsageError(f"numbers of workers go from 1 to {MOST_WORKERS}, got {list(workers)}")
    for kind, asked, known in (("all-reduce", algorithms, ALGORITHMS), ("rule", rules, RULES)):
        for name in asked:
            if name not in known:
                raise UsageError(f"no {kind} is called {name!r}; choose among {', '.join(known)}")
    if group is not None and group < 1:
        raise UsageError(f"a group has at least 1 worker, got {group}")
