"""A merge plan: which gradients go out together, and what the model says about it.

    plan = make_plan(profile, cost, in_flight=2)
    plan.buckets, plan.predicted_s

`compare` puts every rule beside it under the same cost and the same recurrence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from thrifty.core.codec import decode_fields, encode
from thrifty.core.errors import UsageError
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.optimum import optimal_counts
from thrifty.distributed.overlap import dear_s, split_optimum_s
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import RIVALS
from thrifty.distributed.schedule import timeline

OPTIMAL = "optimal"
DEAR, SPLIT_OPTIMAL = "dear", "optimal-split"


@dataclass(frozen=True)
class MergePlan:
    """Buckets of gradients in the order in which they are sent.

    Attributes:
        buckets: names of the parameters in each bucket.
        bucket_bytes: bytes of each bucket.
        predicted_s: from the start of the backward pass to the end of the last transfer.
        rule: by which it was made.
        in_flight: transfers at a time that it was made for.
    """

    buckets: tuple[tuple[str, ...], ...]
    bucket_bytes: tuple[int, ...]
    predicted_s: float
    rule: str
    in_flight: int

    @property
    def counts(self) -> list[int]:
        """Gradients in each bucket."""
        return [len(bucket) for bucket in self.buckets]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return dict(encode(self))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> MergePlan:
        """Build the plan that `to_dict` described. Raises UsageError for anything else."""
        return cls(**decode_fields(cls, state, "merge plan"))


def make_plan(profile: GradientProfile, cost: TransferCost, *, in_flight: int = 1, rule: str = OPTIMAL) -> MergePlan:
    """The plan that a rule makes; the optimum unless another is named.

    Args:
        profile: gradients in the order in which they become ready.
        cost: of an all-reduce on the group.
        in_flight: transfers that the backend runs at a time: 2 for gloo, 1 for NCCL.
        rule: `optimal`, or a key of `RIVALS`.

    Raises:
        UsageError: an unknown rule, or another number in flight.
    """
    if rule != OPTIMAL and rule not in RIVALS:
        raise UsageError(f"no merge rule is called {rule!r}; choose one of {', '.join([OPTIMAL, *RIVALS])}")
    if rule == OPTIMAL:
        counts = optimal_counts(profile, cost, in_flight)
    else:
        counts = RIVALS[rule](profile, cost)
    return plan_of_counts(profile, cost, counts, in_flight, rule)


def plan_of_counts(
    profile: GradientProfile, cost: TransferCost, counts: Sequence[int], in_flight: int, rule: str
) -> MergePlan:
    """The plan with buckets of `counts` gradients each, under the name of a rule."""
    ends = list(accumulate(counts))
    spans = list(zip([0, *ends], ends, strict=False))
    return MergePlan(
        buckets=tuple(profile.names[i:j] for i, j in spans),
        bucket_bytes=tuple(sum(profile.sizes_bytes[i:j]) for i, j in spans),
        predicted_s=timeline(profile, counts, cost, in_flight).over_s,
        rule=rule,
        in_flight=in_flight,
    )


def compare(profile: GradientProfile, cost: TransferCost, *, in_flight: int = 1) -> dict[str, float]:
    """Predicted seconds by rule, from the start of the backward pass, what delays the next forward pass included.

    The last two part the all-reduce (see `overlap`), which no bucket plan of DistributedDataParallel can do: `dear`,
    and `optimal-split`, which is to it what `optimal` is to the others.
    """
    found = {rule: make_plan(profile, cost, in_flight=in_flight, rule=rule).predicted_s for rule in (OPTIMAL, *RIVALS)}
    found[DEAR] = dear_s(profile, cost, in_flight)
    found[SPLIT_OPTIMAL] = split_optimum_s(profile, cost, in_flight)
    return found
