"""Steps of workers that are not equally fast: jitter, and now and then a straggler, as events in simulated time.

Every stretch of the backward pass takes each worker its own time. A bucket goes out when the last worker has it ready,
waits for a place among the transfers in flight, and after its start-up for the wire, which serves in order. The next
step begins when all are over. Without jitter and stragglers this is the recurrence of `schedule`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thrifty.core.errors import UsageError
from thrifty.distributed.cost import Floats, TransferCost
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.schedule import check_in_flight


@dataclass(frozen=True)
class Unevenness:
    """How workers differ.

    Attributes:
        jitter: standard deviation of the logarithm of each stretch's time; 0.05 is about 5 %.
        straggler_share: probability that a worker is a straggler in a step.
        straggler_factor: how many times as long everything takes it then.
    """

    jitter: float = 0.0
    straggler_share: float = 0.0
    straggler_factor: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.jitter < 10 and 0 <= self.straggler_share <= 1 and 1 <= self.straggler_factor < 1e6):
            raise UsageError("jitter is 0 or more, a share of stragglers 0 to 1, and their factor 1 or more")


def simulate_steps(
    profile: GradientProfile,
    counts: Sequence[int],
    cost: TransferCost,
    workers: int,
    uneven: Unevenness,
    *,
    in_flight: int = 1,
    steps: int = 50,
    seed: int = 0,
) -> list[float]:
    """Seconds of each step.

    Args:
        profile: of a worker that is neither fast nor slow.
        counts: gradients in each bucket.
        cost: of one transfer.
        workers: that share a step.
        uneven: how they differ.
        in_flight: transfers at a time.
        steps: to simulate.
        seed: of what is drawn; equal seeds give equal steps.

    Raises:
        UsageError: no worker, no step, or simpy is not installed.
    """
    try:
        import simpy
    except ImportError:
        raise UsageError('jitter and stragglers need simpy; get it with: pip install "thrifty[simulate]"') from None
    check_in_flight(in_flight)
    if workers < 1 or steps < 1:
        raise UsageError(f"a simulation needs at least one worker and one step, got {workers} and {steps}")
    ends = np.cumsum(counts)
    ready = np.asarray(profile.ready_s)[ends - 1]
    stretches = np.concatenate([[profile.forward_s], np.diff(ready, prepend=0.0), [profile.backward_s - ready[-1]]])
    total = np.concatenate([[0.0], np.cumsum(profile.sizes_bytes, dtype=float)])
    size = total[ends] - total[ends - np.asarray(counts)]
    startup, wire = (cost.startup(size), cost.wire(size)) if in_flight == 2 else (0 * size, cost.alone(size))
    random = np.random.default_rng(seed)
    clock = simpy.Environment()
    places = simpy.Resource(clock, in_flight)
    found: list[float] = []

    def transfer(k: int, ready_s: float, one_before: Any) -> Generator[Any, Any, None]:
        yield clock.timeout(ready_s)
        with places.request() as place:
            yield place
            yield clock.timeout(float(startup[k]))
            if one_before is not None:
                yield one_before  # the wire serves in order
            yield clock.timeout(float(wire[k]))

    def train() -> Generator[Any, Any, None]:
        for _ in range(steps):
            begun = clock.now
            at = _slowest(stretches, workers, uneven, random)
            sent: list[Any] = []
            for k in range(len(counts) if workers > 1 else 0):
                sent.append(clock.process(transfer(k, float(at[k + 1]), sent[-1] if sent else None)))
            yield clock.all_of([*sent, clock.timeout(float(at[-1]))])
            found.append(clock.now - begun)

    clock.process(train())
    clock.run()
    return found


def _slowest(stretches: Floats, workers: int, uneven: Unevenness, random: np.random.Generator) -> Floats:
    """When the last worker is at the end of each stretch, in seconds from the start of the step."""
    if uneven.jitter:
        # Mean 1, so that jitter by itself makes no worker slower on average.
        noise = random.lognormal(-(uneven.jitter**2) / 2, uneven.jitter, (workers, len(stretches)))
    else:
        noise = np.ones((workers, len(stretches)))
    if uneven.straggler_share:
        slow = random.random(workers) < uneven.straggler_share
        noise[slow] *= uneven.straggler_factor
    return np.cumsum(noise * stretches, axis=1).max(0)
