"""What an all-reduce of m bytes costs: T(m), alone and with a second one in flight.

T is piecewise linear through samples, not alpha + beta * m: real links change their protocol with the size, and a
straight line is wrong by several times there. Two transfers in flight share the wire and overlap what is not wire, so
two numbers are sampled for each size: `alone_s`, one transfer by itself, and `both_s`, until two that start together
are both over. Of these

    wire(m) = both(m) - alone(m)          startup(m) = alone(m) - wire(m)

wire is what the second one adds, and is taken by one transfer at a time; start-ups of two transfers run side by side.
On a channel that takes one at a time wire is everything, on two independent ones it is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thrifty.core.codec import decode_fields, encode
from thrifty.core.errors import UsageError

Floats = NDArray[np.float64]


class TransferSample(NamedTuple):
    """One measured size: `alone_s` of a transfer by itself, `both_s` of two that start together."""

    size_bytes: float
    alone_s: float
    both_s: float


@dataclass(frozen=True)
class TransferCost:
    """Seconds of an all-reduce by its size, for one group and backend.

    Between samples T is linear; below the first it is constant, as start-up is all there; above the last it goes on as
    steeply as between the last two.

    Attributes:
        sizes_bytes: sampled sizes, rising.
        alone_s: seconds of one transfer.
        both_s: seconds of two that start together, between `alone_s` and twice that.
    """

    sizes_bytes: tuple[float, ...]
    alone_s: tuple[float, ...]
    both_s: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes, alone, both = self.sizes_bytes, self.alone_s, self.both_s
        if not sizes or not len(sizes) == len(alone) == len(both):
            raise UsageError("a transfer cost needs as many sizes as times, and at least one")
        if not all(math.isfinite(value) and value >= 0 for value in (*sizes, *alone, *both)):
            raise UsageError("a transfer cost takes finite sizes and times that are not negative")
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise UsageError("the sizes of a transfer cost must rise")
        if any(not one <= two <= 2 * one for one, two in zip(alone, both, strict=True)):
            raise UsageError("two transfers take no less than one and no more than twice as long")

    @classmethod
    def from_samples(cls, samples: Iterable[TransferSample]) -> TransferCost:
        """Build the cost through measured sizes; of a size measured again the quicker times count.

        What noise puts out of order is put right: two transfers are never quicker than one nor slower than one after
        the other.

        Raises:
            UsageError: no sample, or one that is negative or not finite.
        """
        found: dict[float, tuple[float, float]] = {}
        for size, alone, both in samples:
            earlier = found.get(size, (math.inf, math.inf))
            found[size] = (min(alone, earlier[0]), min(both, earlier[1]))
        sizes = sorted(found)
        alone_s = [float(found[size][0]) for size in sizes]
        both_s = [min(max(float(found[size][1]), alone), 2 * alone) for size, alone in zip(sizes, alone_s, strict=True)]
        return cls(tuple(map(float, sizes)), tuple(alone_s), tuple(both_s))

    @classmethod
    def linear(cls, startup_s: float, seconds_per_byte: float) -> TransferCost:
        """The usual alpha + beta * m: start-ups side by side, bytes one after the other."""
        reach = 2.0**30
        ends = (startup_s, startup_s + seconds_per_byte * reach)
        both = (startup_s, startup_s + 2 * seconds_per_byte * reach)
        # startup + 2 wire never exceeds twice startup + wire, but rounding may say otherwise
        both = tuple(min(two, 2 * one) for one, two in zip(ends, both, strict=True))  # type: ignore[assignment]
        return cls((0.0, reach), ends, both)

    def alone(self, size_bytes: ArrayLike) -> Floats:
        """Seconds of one transfer of each size."""
        return _through(np.asarray(size_bytes, dtype=float), self.sizes_bytes, self.alone_s)

    def wire(self, size_bytes: ArrayLike) -> Floats:
        """Of `alone`, the seconds that one transfer at a time takes."""
        wires = tuple(both - alone for alone, both in zip(self.alone_s, self.both_s, strict=True))
        return np.minimum(
            _through(np.asarray(size_bytes, dtype=float), self.sizes_bytes, wires), self.alone(size_bytes)
        )

    def startup(self, size_bytes: ArrayLike) -> Floats:
        """Of `alone`, the seconds that two transfers spend side by side."""
        return self.alone(size_bytes) - self.wire(size_bytes)

    def split(self) -> TransferCost:
        """The cost of half of an all-reduce, a reduce-scatter or an all-gather: each moves half of the bytes in half
        of the steps.
        """
        return TransferCost(
            self.sizes_bytes, tuple(one / 2 for one in self.alone_s), tuple(two / 2 for two in self.both_s)
        )

    def fitted(self) -> tuple[float, float]:
        """Start-up in s and seconds per byte of the straight line nearest to `alone`, as the published rules want it.

        Relative errors are made small, so that large sizes do not drown the start-up; neither is below zero.
        """
        sizes, alone = np.asarray(self.sizes_bytes), np.asarray(self.alone_s)
        if len(sizes) == 1 or not alone.any():
            return float(alone[0]), 0.0
        weight = 1 / np.maximum(alone, alone.max() * 1e-9)
        rows = np.stack([weight, sizes * weight], axis=1)
        # Sizes go to 1e8 and seconds to 1e-5: without scaling the columns the system is badly conditioned.
        scale = np.abs(rows).max(0)
        startup, per_byte = np.linalg.lstsq(rows / scale, alone * weight, rcond=None)[0] / scale
        if startup < 0:
            return 0.0, float((alone * sizes * weight**2).sum() / (sizes**2 * weight**2).sum())
        if per_byte < 0:
            return float((alone * weight**2).sum() / (weight**2).sum()), 0.0
        return float(startup), float(per_byte)

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as plain data."""
        return dict(encode(self))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> TransferCost:
        """Build the cost that `to_dict` described. Raises UsageError for anything else."""
        return cls(**decode_fields(cls, state, "transfer cost"))


def _through(at: Floats, sizes: tuple[float, ...], values: tuple[float, ...]) -> Floats:
    between = np.interp(at, sizes, values)
    if len(sizes) == 1:
        return between
    slope = max(0.0, (values[-1] - values[-2]) / (sizes[-1] - sizes[-2]))
    return between + slope * np.maximum(at - sizes[-1], 0.0)
