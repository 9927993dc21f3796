"""What a training step did, in numbers only, so that a plan can be made for the steps that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

from thrifty.autodiff.operations import Operation


@dataclass
class Trace:
    """One training step.

    Attributes:
        operations: what ran in the forward pass, in order, views left out.
        seconds: that each took.
        reads, makes: indices of the contents that each read and made; what the step found has none.
        nbytes: of each content. home: the operation that made it.
        saved: (operation, content): autograd saved the content before this operation or just after the one before.
        gradient_bytes: operation -> most bytes that backward itself had alive while it was at this operation.
        outside_bytes: of contents that the program held when backward began, though autograd did not need them.
        evicted: contents were let go.
    """

    operations: list[Operation] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    makes: list[tuple[int, ...]] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    home: list[int] = field(default_factory=list)
    saved: list[tuple[int, int]] = field(default_factory=list)
    gradient_bytes: dict[int, int] = field(default_factory=dict)
    outside_bytes: int = 0
    evicted: bool = False

    def same(self, other: Trace) -> bool:
        """True if the other step did the same."""
        return (
            self.operations == other.operations
            and self.nbytes == other.nbytes
            and self.reads == other.reads
            and self.makes == other.makes
            and self.saved == other.saved
        )

    def merge(self, other: Trace) -> None:
        """Take the lesser times and the greater bytes of the two."""
        self.seconds = [min(pair) for pair in zip(self.seconds, other.seconds, strict=True)]
        for operation, nbytes in other.gradient_bytes.items():
            self.gradient_bytes[operation] = max(nbytes, self.gradient_bytes.get(operation, 0))
        self.outside_bytes = max(self.outside_bytes, other.outside_bytes)
        self.evicted = self.evicted or other.evicted
