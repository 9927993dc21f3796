"""When the gradients of a model become ready in the backward pass, and how large they are.

Order is that of readiness, which is stable from step to step and is not always the reverse of `named_parameters()`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from thrifty.core.codec import decode_fields, encode
from thrifty.core.errors import UsageError


@dataclass(frozen=True)
class GradientProfile:
    """Gradients in the order in which the backward pass finishes them.

    Attributes:
        names: qualified parameter names.
        sizes_bytes: of the gradients as they are sent.
        ready_s: when each is ready, from the start of the backward pass; never falling.
        backward_s: length of the backward pass.
        forward_s: length of the forward pass before it.
        needed_s: when the forward pass first uses each parameter, from its start.
    """

    names: tuple[str, ...]
    sizes_bytes: tuple[int, ...]
    ready_s: tuple[float, ...]
    backward_s: float
    forward_s: float
    needed_s: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.sizes_bytes), len(self.ready_s), len(self.needed_s)}
        if counts == {0} or len(counts) != 1:
            raise UsageError("a gradient profile needs a size and two times for each name, and at least one name")
        if len(set(self.names)) < len(self.names):
            raise UsageError("a gradient profile names each parameter once")
        times = (*self.ready_s, *self.needed_s, self.backward_s, self.forward_s)
        if not all(math.isfinite(time) and time >= 0 for time in times) or min(self.sizes_bytes) < 0:
            raise UsageError("times and sizes of a gradient profile are finite and not negative")
        if max(self.sizes_bytes) >= 1 << 63:
            raise UsageError("a gradient of a profile is larger than any memory")
        if any(later < earlier for earlier, later in zip(self.ready_s, self.ready_s[1:], strict=False)):
            raise UsageError("a gradient profile lists gradients in the order in which they become ready")
        if self.ready_s[-1] > self.backward_s or max(self.needed_s) > self.forward_s:
            raise UsageError("a gradient cannot be ready after the backward pass, nor be needed after the forward pass")

    @property
    def total_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(self.sizes_bytes)

    @property
    def compute_s(self) -> float:
        """Seconds of a step without any transfer: forward and backward pass."""
        return self.forward_s + self.backward_s

    def scaled(self, factor: float) -> GradientProfile:
        """The profile on a machine on which everything takes `factor` times as long."""
        return replace(
            self,
            ready_s=tuple(time * factor for time in self.ready_s),
            needed_s=tuple(time * factor for time in self.needed_s),
            # min and max of the parts keep the order that rounding could break
            backward_s=max(self.backward_s * factor, self.ready_s[-1] * factor),
            forward_s=max(self.forward_s * factor, max(self.needed_s) * factor),
        )

    def taking(self, compute_s: float) -> GradientProfile:
        """The profile on a machine on which forward and backward pass together take `compute_s`."""
        if compute_s <= 0 or self.compute_s <= 0:
            raise UsageError(f"a step takes more than {min(compute_s, self.compute_s)} s")
        return self.scaled(compute_s / self.compute_s)

    def sent_as(self, bytes_per_value: float, now: float = 4.0) -> GradientProfile:
        """The profile with gradients of `bytes_per_value` instead of `now` bytes a value on the wire."""
        sizes = tuple(round(size * bytes_per_value / now) for size in self.sizes_bytes)
        return replace(self, sizes_bytes=sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data."""
        return dict(encode(self))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> GradientProfile:
        """Build the profile that `to_dict` described. Raises UsageError for anything else."""
        return cls(**decode_fields(cls, state, "gradient profile"))
