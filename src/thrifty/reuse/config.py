"""Reuse: the settings of adaptive deep reuse."""

from dataclasses import dataclass
from typing import ClassVar

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.ops.sign_hash import MAX_BITS

PIECES = ("auto", "pixels", "patches")
GRADIENTS = ("exact", "clusters")
ENCODERS = ("codebook", "sign")
SEQUENCES = ("off", "exact", "clusters")
ATTENTION = ("off", "queries", "keys")
MAX_CODEBOOK_BITS = 12


@dataclass(frozen=True)
class Stage:
    """One setting of the approximation, {L, H, scope} in the papers.

    Attributes:
        length: input channels per piece, L; longer pieces cost less and err more.
        bits: hash bits, H, or log2 of the codebook's entries; at most 2^H clusters per piece position and scope. More
            bits cost more and err less.
        scope: images whose pieces may share a cluster; 0 for the whole batch.
    """

    length: int
    bits: int
    scope: int = 0

    def validate(self, where: str) -> None:
        """Raise UsageError naming `where` when a number is not whole or out of range."""
        for name in ("length", "bits", "scope"):
            value = getattr(self, name)
            if type(value) is not int:
                raise UsageError(f"{where}.{name} must be a whole number, got {value!r}")
        if self.length < 1:
            raise UsageError(f"{where}.length must be at least 1 channel, got {self.length}")
        if not 1 <= self.bits <= MAX_BITS:
            raise UsageError(f"{where}.bits must be 1 to {MAX_BITS}, got {self.bits}")
        if self.scope < 0:
            raise UsageError(f"{where}.scope must be 0 (the batch) or a number of images, got {self.scope}")


PAPER_STAGES = (Stage(length=32, bits=8), Stage(length=16, bits=8))
"""Coarse, then finer, as in the paper; as measured for this library's encoder."""


@dataclass(frozen=True)
class Reuse(MethodConfig):
    """Adaptive deep reuse in training: products are shared, or left out where a factor is zero.

    Attributes:
        stages: the settings of clusters to train with, coarse first; the controller walks through them and ends
            exact. `PAPER_STAGES` is a start. None, the default, is exact from the first step: in every training
            measured so far what clusters lose in accuracy costs more seconds than they save.
        fixed: stay at the first stage for good: nothing is measured and nothing moves.
        patience: training steps without a falling smoothed loss before the controller moves on.
        min_decrease: by which part the smoothed loss must fall within `patience` steps to count as falling.
        smoothing_steps: time constant of the loss's exponential moving average, in steps.
        total_steps: length of the training in steps, if known: then no stage lasts longer than its share of it.
        dense_share: part of `total_steps` at the end that is trained dense.
        pieces: `pixels` cuts every pixel's channels; `patches` cuts im2col rows (for inputs with few channels);
            `auto` takes pixels where a pixel holds at least `min_channels` channels and leaves other layers dense.
        min_channels: input channels from which `auto` changes a convolution.
        linear: change `nn.Linear` layers too. They pay only where many rows share an input: sequences, patches.
        skip_zeros: leave out zeros in exact products, and run a convolution with the ReLU and max pool behind it as one
            step. Exact: only the order of sums differs from the stock layers'.
        gradients: in a stage of clusters, where a ReLU follows: `exact` gradients by the nonzeros of what comes back,
            or those of the `clusters`, as in the paper.
        measure: time the ways of computing in the first steps, layer by layer, and take the fastest. Without it, fixed
            shares of nonzeros decide, and two runs from one seed are equal bit for bit.
        sequences: change `nn.LSTM`, `nn.GRU` and `nn.MultiheadAttention`: with `exact`, rows of the input that are
            equal bit for bit (embedded tokens, blank rows) share their product, without error; with `clusters`,
            similar ones do, as in the other layers.
        recurrent: with `sequences="clusters"`, make the recurrent products of every step on clusters too.
        attention: let similar `queries`, or similar `keys`, of `nn.MultiheadAttention` share their scores.
        attention_bits: log2 of the clusters of each head and sequence at most, in every stage.
        encoder: how pieces get their codes: `codebook`, k-means carried on from step to step, or `sign`, the random
            hyperplanes of the papers: cheaper by a few percent of the layer, and about 1.6 times the error.
        seed: of the codebooks' first entries and of the hyperplanes.
    """

    method: ClassVar[str] = "reuse"

    stages: tuple[Stage, ...] = ()
    fixed: bool = False
    patience: int = 100
    min_decrease: float = 0.01
    smoothing_steps: int = 50
    total_steps: int | None = None
    dense_share: float = 0.4
    pieces: str = "auto"
    min_channels: int = 16
    linear: bool = False
    skip_zeros: bool = True
    gradients: str = "exact"
    measure: bool = True
    sequences: str = "off"
    recurrent: bool = False
    attention: str = "off"
    attention_bits: int = 6
    encoder: str = "codebook"
    seed: int = 0

    def validate(self) -> None:
        """Check every field; see `MethodConfig.validate`."""
        if not isinstance(self.stages, tuple):
            raise UsageError(f"Reuse.stages must be a tuple of Stage(length, bits), got {self.stages!r}")
        for i, stage in enumerate(self.stages):
            if not isinstance(stage, Stage):
                raise UsageError(f"Reuse.stages[{i}] is {stage!r}: expected Stage(length, bits)")
            stage.validate(f"Reuse.stages[{i}]")
        if self.pieces not in PIECES:
            raise UsageError(f"Reuse.pieces is {self.pieces!r}: choose one of {', '.join(PIECES)}")
        if self.encoder not in ENCODERS:
            raise UsageError(f"Reuse.encoder is {self.encoder!r}: choose one of {', '.join(ENCODERS)}")
        if self.gradients not in GRADIENTS:
            raise UsageError(f"Reuse.gradients is {self.gradients!r}: choose one of {', '.join(GRADIENTS)}")
        if self.sequences not in SEQUENCES:
            raise UsageError(f"Reuse.sequences is {self.sequences!r}: choose one of {', '.join(SEQUENCES)}")
        if self.attention not in ATTENTION:
            raise UsageError(f"Reuse.attention is {self.attention!r}: choose one of {', '.join(ATTENTION)}")
        if self.recurrent and self.sequences != "clusters":
            raise UsageError("Reuse.recurrent takes clusters: set sequences='clusters' too")
        if type(self.attention_bits) is not int or not 1 <= self.attention_bits <= MAX_CODEBOOK_BITS:
            raise UsageError(f"Reuse.attention_bits must be 1 to {MAX_CODEBOOK_BITS}, got {self.attention_bits!r}")
        approximate = self.linear or self.sequences == "clusters" or self.attention != "off"
        if not self.stages and (approximate or not (self.skip_zeros or self.sequences == "exact")):
            raise UsageError("Reuse.stages is empty: give at least one Stage(length, bits), or PAPER_STAGES")
        widest = max((stage.bits for stage in self.stages), default=0)
        if self.encoder == "codebook" and widest > MAX_CODEBOOK_BITS:
            raise UsageError(
                f"a stage has {widest} bits, a codebook takes at most {MAX_CODEBOOK_BITS}: "
                "choose fewer, or encoder='sign'"
            )
        for name in ("patience", "smoothing_steps", "min_channels"):
            if getattr(self, name) < 1:
                raise UsageError(f"Reuse.{name} must be at least 1, got {getattr(self, name)}")
        if self.total_steps is not None and self.total_steps < 1:
            raise UsageError(f"Reuse.total_steps must be at least 1, got {self.total_steps}")
        for name in ("min_decrease", "dense_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"Reuse.{name} must be between 0 and 1, got {getattr(self, name)}")
