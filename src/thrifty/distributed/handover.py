"""A merge plan handed over to stock DistributedDataParallel, and what it made of it.

DDP closes a bucket when its size reaches a cap, and takes a list of caps (`bucket_cap_mb_list`): the bytes of the
plan's buckets, in the order of readiness, are that list. It uses it after its first step, in which it learns the order.
An older torch takes one cap for all buckets; then the best single one is handed over, and said so.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from thrifty.core.errors import ModelError
from thrifty.core.inspection import makes_sparse_gradients, refuse_wrapped
from thrifty.distributed.agreement import check_same, members
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.plan import MergePlan, plan_of_counts
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import MIB, capped

DDP_DEFAULT = "ddp-default"
_LEAST_COMPILED_BYTES = MIB
"""Gradients of a piece of code that torch.compile makes under DistributedDataParallel: its first piece has so many."""


class PlanWarning(UserWarning):
    """DistributedDataParallel has other buckets than the plan."""


@dataclass(frozen=True)
class BucketReport:
    """The buckets of a plan beside those that DistributedDataParallel has made.

    Attributes:
        planned: names of the parameters in each bucket of the plan.
        realised: of each bucket that DDP sends.
        differences: a line for each bucket that is not as planned; empty when all are.
    """

    planned: tuple[tuple[str, ...], ...]
    realised: tuple[tuple[str, ...], ...]
    differences: tuple[str, ...]

    @property
    def as_planned(self) -> bool:
        """Whether all buckets are those of the plan."""
        return not self.differences


def takes_cap_list() -> bool:
    """Whether this torch's DistributedDataParallel takes a cap for each bucket."""
    return "bucket_cap_mb_list" in inspect.signature(DistributedDataParallel.__init__).parameters


def hand_over(
    model: nn.Module, plan: MergePlan, *, group: ProcessGroup | None = None, timeout_s: float = 60.0, **keywords: Any
) -> DistributedDataParallel:
    """Wrap `model` in DistributedDataParallel with the buckets of `plan`.

    After its first two steps the buckets are read back and compared; a difference is a `PlanWarning`.

    Args:
        model: not yet wrapped or compiled.
        plan: of the gradients of this model.
        group: the processes; all of the world where None.
        timeout_s: seconds after which a process that does not answer is given up.
        keywords: further ones of DistributedDataParallel, but no caps.

    Raises:
        ModelError: a wrapped or compiled model, or a plan of other parameters.
        UsageError: no process group, or a world of one.
        DistributedError: processes with different plans, or gone.
    """
    refuse_wrapped(model, "thrifty.distributed.data_parallel")
    refuse_sparse(model)
    members(group)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    planned = {name for bucket in plan.buckets for name in bucket}
    if trained != planned:
        odd = min(trained ^ planned)
        where = "the model alone" if odd in trained else "the plan alone"
        raise ModelError(f"the plan is of another model: {odd} is in {where}; make a plan for this model")
    check_same("the merge plan", [plan.rule, *map(str, plan.buckets)], group, timeout_s)
    wrapped = DistributedDataParallel(model, process_group=group, **_caps(plan), **keywords)
    # The buckets are laid out by now; torch.compile, which parts its code by this attribute, refuses a smaller one.
    wrapped.bucket_bytes_cap = max(wrapped.bucket_bytes_cap, _LEAST_COMPILED_BYTES)
    _watch(wrapped, plan)
    return wrapped


def refuse_sparse(model: nn.Module) -> None:
    """Make sure that all gradients of `model` are dense. Raises ModelError naming the first layer whose are not."""
    if name := makes_sparse_gradients(model):
        raise ModelError(
            f"layer {name!r} makes sparse gradients, which cannot be packed into buckets: build it with sparse=False"
        )


def _caps(plan: MergePlan) -> dict[str, Any]:
    if plan.rule == DDP_DEFAULT:
        return {}
    if takes_cap_list():
        return {"bucket_cap_mb_list": [size / MIB for size in plan.bucket_bytes]}
    return {"bucket_cap_mb": max(plan.bucket_bytes) / MIB}


def single_cap(profile: GradientProfile, cost: TransferCost, in_flight: int) -> MergePlan:
    """The best plan that one cap for all buckets can make: for a torch that takes no list."""
    ends: list[float] = []
    held = 0
    for size in profile.sizes_bytes:
        held += size
        ends.append(held)
    # Only the sum of some neighbours can be a cap that makes a difference; those from the first on, and every size,
    # stand for all of them.
    caps = sorted({*ends, *profile.sizes_bytes})
    plans = [
        plan_of_counts(profile, cost, capped(profile.sizes_bytes, [int(cap)]), in_flight, "single-cap") for cap in caps
    ]
    return min(plans, key=lambda plan: (plan.predicted_s, len(plan.buckets)))


def realised(wrapped: DistributedDataParallel) -> tuple[tuple[str, ...], ...]:
    """Names of the parameters in each bucket that DistributedDataParallel has at present, in the order it sends them.

    They are final after its first step, when the next one begins.
    """
    names = {id(parameter): name for name, parameter in wrapped.module.named_parameters()}
    buckets = wrapped.reducer._get_zeros_like_grad_buckets()
    return tuple(tuple(names[id(parameter)] for parameter in bucket.parameters()) for bucket in buckets)


def bucket_report(wrapped: DistributedDataParallel, plan: MergePlan) -> BucketReport:
    """Compare the present buckets of `wrapped` with those of `plan`, as sets: order within a bucket does not matter."""
    found = realised(wrapped)
    return BucketReport(plan.buckets, found, tuple(_differences(plan.buckets, found)))


def _differences(planned: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    if len(planned) != len(found):
        lines.append(f"{len(planned)} buckets were planned, there are {len(found)}")
    for number, (plan, real) in enumerate(zip(planned, found, strict=False)):
        more, less = sorted(set(real) - set(plan)), sorted(set(plan) - set(real))
        if more or less:
            parts = [f"has {', '.join(more)}"] * bool(more) + [f"lacks {', '.join(less)}"] * bool(less)
            lines.append(f"bucket {number} {' and '.join(parts)}")
    return lines


def _watch(wrapped: DistributedDataParallel, plan: MergePlan) -> None:
    """Compare when the buckets are final: in the forward pass after the first step that sent gradients."""
    seen = 0

    def look(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen < 3:
            return
        handle.remove()
        report = bucket_report(wrapped, plan)
        if not report.as_planned:
            first = report.differences[0]
            warnings.warn(
                f"DistributedDataParallel has other buckets than planned: {first}"
                f"{f' (and {len(report.differences) - 1} more differences)' if report.differences[1:] else ''}; "
                "with find_unused_parameters=True or a graph that changes it keeps the order of registration",
                PlanWarning,
                stacklevel=2,
            )

    handle = wrapped.register_forward_pre_hook(look)
