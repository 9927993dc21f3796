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
        fixed: operations that cannot be called again.
        nbytes: of each content. home: the operation that made it.
        overwritten: contents that an operation in place wrote over, so that they cannot be kept.
        saved: (operation, content): autograd saved the content before this operation or just after the one before;
            backward asks for them about in reverse.
        entering_bytes, gradient_bytes: place in `saved` -> bytes that backward itself had alive when it asked for that,
            and most until it asked for another.
        outside_bytes: of contents that the program held when backward began, though autograd did not need them.
        leaves: of each parameter that has no gradient yet, the last operation that reads it, and its bytes.
        evicted: contents were let go.
    """

    operations: list[Operation] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    makes: list[tuple[int, ...]] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    nbytes: list[int] = field(default_factory=list)
    home: list[int] = field(default_factory=list)
    overwritten: set[int] = field(default_factory=set)
    saved: list[tuple[int, int]] = field(default_factory=list)
    entering_bytes: dict[int, int] = field(default_factory=dict)
    gradient_bytes: dict[int, int] = field(default_factory=dict)
    outside_bytes: int = 0
    leaves: dict[int, tuple[int, int]] = field(default_factory=dict)
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
        for mine, others in ((self.gradient_bytes, other.gradient_bytes), (self.entering_bytes, other.entering_bytes)):
            for operation, nbytes in others.items():
                mine[operation] = max(nbytes, mine.get(operation, 0))
        self.outside_bytes = max(self.outside_bytes, other.outside_bytes)
        self.evicted = self.evicted or other.evicted
        self.fixed |= other.fixed
        self.overwritten |= other.overwritten

    def last_reads(self) -> list[int]:
        """Per content, the last operation that reads it, or before which autograd saves it."""
        last = list(self.home)
        for at, reads in enumerate(self.reads):
            for content in reads:
                last[content] = max(last[content], at)
        most = len(self.operations) - 1
        for at, content in self.saved:
            last[content] = max(last[content], min(at, most))
        return last
