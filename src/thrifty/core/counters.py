"""What a changed layer counts while it works, and what a controller tells when it moves.

Adding to a counter is a handful of integer and float additions, so that it can be done at every step.
Quantities that cost work to observe (ratios, errors) may be observed at some steps only: their means are over those.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from thrifty.core.errors import CheckpointError
from thrifty.ops._stages import STAGES as STAGES  # the stages that layers time, in the order in which they are shown


@dataclass(slots=True)
class LayerCounters:
    """Sums over all steps since the last reset.

    Attributes:
        steps: forward passes that were counted.
        macs: multiply-accumulates done, forward and backward.
        dense_macs: multiply-accumulates that the stock layer would have done on the same input.
        stages_s: seconds per stage (see `STAGES`); stages that were never timed are absent.
    """

    steps: int = 0
    macs: int = 0
    dense_macs: int = 0
    stages_s: dict[str, float] = field(default_factory=dict)
    ratio_sum: float = 0.0
    ratio_count: int = 0
    error_sum: float = 0.0
    error_count: int = 0

    @property
    def remaining_ratio(self) -> float | None:
        """Mean remaining ratio over the steps that observed it (clusters / vectors, 0..1); None before the first."""
        return self.ratio_sum / self.ratio_count if self.ratio_count else None

    @property
    def error(self) -> float | None:
        """Mean relative quantisation error over the steps that observed it; None before the first."""
        return self.error_sum / self.error_count if self.error_count else None

    def add(
        self,
        *,
        steps: int = 0,
        macs: int = 0,
        dense_macs: int = 0,
        remaining_ratio: float | None = None,
        error: float | None = None,
        stages_s: Mapping[str, float] | None = None,
    ) -> None:
        """Add what one pass did; a `remaining_ratio` or `error` of None counts as not observed."""
        self.steps += steps
        self.macs += macs
        self.dense_macs += dense_macs
        if remaining_ratio is not None:
            self.ratio_sum += remaining_ratio
            self.ratio_count += 1
        if error is not None:
            self.error_sum += error
            self.error_count += 1
        if stages_s:
            for stage, seconds in stages_s.items():
                self.stages_s[stage] = self.stages_s.get(stage, 0.0) + seconds

    def include(self, other: "LayerCounters") -> None:
        """Add the sums of `other`, which counted the same layer elsewhere."""
        self.add(steps=other.steps, macs=other.macs, dense_macs=other.dense_macs, stages_s=other.stages_s)
        self.ratio_sum += other.ratio_sum
        self.ratio_count += other.ratio_count
        self.error_sum += other.error_sum
        self.error_count += other.error_count

    def reset(self) -> None:
        """Set every sum back to zero, in place."""
        self.assign(LayerCounters())

    def copy(self) -> Self:
        """Return an independent snapshot."""
        return type(self).from_dict(self.to_dict())

    def assign(self, other: "LayerCounters") -> None:
        """Take over the sums of `other`, in place."""
        for name, value in other.to_dict().items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Build counters from what `to_dict` returned.

        Raises:
            CheckpointError: when `state` is not such a dictionary.
        """
        try:
            return cls(**{**state, "stages_s": dict(state["stages_s"])})
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"layer counters are damaged ({error}); start the run anew") from error


@dataclass(frozen=True)
class Event:
    """One move of a controller.

    Attributes:
        step: the training step after which it moved, counted from 1.
        what: the move, for example "stage 0 -> 1".
        reason: why, for example "smoothed loss stopped falling".
        layer: the layer that moved, or None when all of the method's layers did.
    """

    step: int
    what: str
    reason: str
    layer: str | None = None
