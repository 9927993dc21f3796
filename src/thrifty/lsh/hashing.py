"""Hashing: how classes are hashed and stored, and the sizes that follow where none are given."""

import math
from dataclasses import dataclass

from thrifty.core.errors import UsageError

FAMILIES = ("sim", "fitted", "sparse", "wta")
REPLACEMENTS = ("reservoir", "fifo")
ID_BYTES = 4  # of an entry of the tables
WTA_SIZE = 8  # features in a bin
LOADS = (12, 192)  # classes a bucket holds on average where nothing is asked for: at least, at most
BUCKETS = 256  # in a table, where that makes buckets of a size between
ROOM = 1.5  # slots a class, so that few buckets overflow


@dataclass(frozen=True)
class Hashing:
    """Settings of the hash tables of a layer. None means: from the layer's size.

    Attributes:
        family: `sim`, random hyperplanes; `fitted`, hyperplanes half-way between two classes drawn at random;
            `sparse`, sparse sign vectors: fewer operations a hash, for narrow layers and single rows; `wta`, densified
            winner-take-all.
        tables: L. More tables find more, and cost memory and hashing in proportion.
        bits: K, the bits of a code (for `wta`: bins of eight features). More bits make smaller buckets.
        capacity: slots of a bucket. What does not fit is sampled.
        memory_share: what the tables may take of the weights' memory where `tables` is None.
        replace: what a full bucket keeps: a uniform sample (`reservoir`) or the latest (`fifo`).
        probes: buckets that a row looks into in each table, for `sim`, `fitted` and `sparse`.
        refresh_every: training steps after which the head rows changed meanwhile are hashed again.
        rebuild_first: training steps to the first full rebuild, 0 for none. Each later one waits `rebuild_growth` times
            as long as the one before.
        drift: rebuild when this share of the codes of a sample of classes has changed without the tables noticing; it
        is
            looked at every 64 steps. 1 for never.
        seed: of the hash functions, of full buckets' choices, and of the classes that are drawn.
    """

    family: str = "sim"
    tables: int | None = None
    bits: int | None = None
    capacity: int | None = None
    memory_share: float = 0.25
    replace: str = "reservoir"
    probes: int = 1
    refresh_every: int = 8
    rebuild_first: int = 0
    rebuild_growth: float = 1.5
    drift: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UsageError(f"Hashing.family is {self.family!r}: choose one of {', '.join(FAMILIES)}")
        if self.replace not in REPLACEMENTS:
            raise UsageError(f"Hashing.replace is {self.replace!r}: choose one of {', '.join(REPLACEMENTS)}")
        for name in ("tables", "bits", "capacity"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"Hashing.{name} must be at least 1 or None, got {value}")
        for name in ("probes", "refresh_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"Hashing.{name} must be at least 1, got {getattr(self, name)}")
        if self.family == "wta" and self.probes > 1:
            raise UsageError(
                "Hashing.probes: winner-take-all codes have no neighbours to probe; use 1, or family='sim'"
            )
        most = 9 if self.family == "wta" else 24
        if self.bits is not None and self.bits > most:
            raise UsageError(f"Hashing.bits is {self.bits}: at most {most} for {self.family}")
        if not 0 < self.memory_share <= 4:
            raise UsageError(f"Hashing.memory_share must be above 0 and at most 4, got {self.memory_share}")
        if not 0 <= self.drift <= 1:
            raise UsageError(f"Hashing.drift must be between 0 and 1, got {self.drift}")
        if self.rebuild_first < 0 or self.rebuild_growth < 1:
            raise UsageError("Hashing.rebuild_first must be from 0 on, and rebuild_growth at least 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"Hashing.seed must be from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True)
class Sizes:
    """The sizes of the tables of one layer: `tables` of `buckets` of `capacity` slots for `classes`."""

    classes: int
    tables: int
    bits: int
    buckets: int
    capacity: int

    @property
    def bytes(self) -> int:
        """Memory of the tables: slots, two counters a bucket, and the code of every class."""
        per_table = self.buckets * (self.capacity + 2) + self.classes
        return ID_BYTES * self.tables * per_table


def sizes_for(hashing: Hashing, classes: int, features: int, element_bytes: int = 4) -> Sizes:
    """Fill in what `hashing` leaves open for a layer of this size.

    About `BUCKETS` buckets, or what keeps their mean load within `LOADS`; room for half as many more; as many tables
    as fit `memory_share` of the weights, at least one and at most 24. Few large buckets find more than many small ones
    of the same memory: after training the best classes of a query are some 60 degrees away from it.
    """
    base = WTA_SIZE if hashing.family == "wta" else 2
    bits = hashing.bits
    if bits is None:
        load = min(max(classes / BUCKETS, LOADS[0]), LOADS[1])
        bits = max(1, min(9 if base > 2 else 20, int(math.log(max(classes / load, base), base) + 1e-9)))
    buckets = base**bits
    capacity = hashing.capacity or max(4, math.ceil(ROOM * classes / buckets))
    one = Sizes(classes, 1, bits, buckets, capacity)
    tables = hashing.tables
    if tables is None:
        tables = int(hashing.memory_share * element_bytes * features * classes / one.bytes)
        tables = max(1, min(24, tables))
    return Sizes(classes, tables, bits, buckets, capacity)
