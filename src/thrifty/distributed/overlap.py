"""All-reduce parted in two: reduce-scatter behind the backward pass, all-gather before the next forward pass.

DeAR (Zhang et al., ICDCS 2023): the reduce-scatters of all buckets are over before the first all-gather begins; the
forward pass uses a parameter when the all-gather of its bucket is over. Each half costs half (see
`TransferCost.split`). The seconds given here are those from the start of the backward pass to the end of the next
forward pass, less that forward pass: what an all-reduce plan's end is compared with.

Seen backwards in time the all-gathers are a merge plan too: a bucket's transfer lies after the layers that need it. So
the plan of `optimum` on the reversed forward pass is the best that this half can have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thrifty.distributed.cost import TransferCost
from thrifty.distributed.optimum import optimal_counts
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import MIB, capped
from thrifty.distributed.schedule import timeline

DEAR_CAP_BYTES = 25 * MIB
"""Where the authors' code cuts its buckets, when nothing was tuned."""


def dear_s(profile: GradientProfile, cost: TransferCost, in_flight: int = 1) -> float:
    """Seconds of DeAR's schedule with buckets of 25 MiB, in forward order, for both halves."""
    half, forward = cost.split(), reversed_forward(profile)
    # Buckets are cut in forward order; the forward pass reversed lists them from the back.
    counts = capped(forward.sizes_bytes[::-1], [DEAR_CAP_BYTES])
    backward_counts = capped(profile.sizes_bytes[::-1], [DEAR_CAP_BYTES])
    scattered = timeline(profile, backward_counts[::-1], half, in_flight).over_s
    return scattered + _gathered(forward, counts[::-1], half, in_flight)


def split_optimum_s(profile: GradientProfile, cost: TransferCost, in_flight: int = 1) -> float:
    """Seconds of the best plan of this kind: both halves merged as the optimum says."""
    half, forward = cost.split(), reversed_forward(profile)
    scattered = timeline(profile, optimal_counts(profile, half, in_flight), half, in_flight).over_s
    return scattered + _gathered(forward, optimal_counts(forward, half, in_flight), half, in_flight)


def reversed_forward(profile: GradientProfile) -> GradientProfile:
    """The forward pass backwards in time: what is needed last comes first, and its transfer has to lie behind."""
    needed = np.asarray(profile.needed_s)
    order = np.argsort(-needed, kind="stable")
    return replace(
        profile,
        names=tuple(profile.names[i] for i in order),
        sizes_bytes=tuple(profile.sizes_bytes[i] for i in order),
        ready_s=tuple(float(profile.forward_s - needed[i]) for i in order),
        needed_s=tuple(float(needed[i]) for i in order),
        backward_s=profile.forward_s,
    )


def _gathered(forward: GradientProfile, counts: list[int], half: TransferCost, in_flight: int) -> float:
    """Seconds that the all-gathers add to the forward pass."""
    return max(0.0, timeline(forward, counts, half, in_flight).over_s - forward.forward_s)
