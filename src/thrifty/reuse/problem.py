"""A layer and a setting of reuse in numbers: what the cost model is asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thrifty.core.errors import UsageError
from thrifty.ops.clusters import piece_count
from thrifty.ops.geometry import Geometry, Pair

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LayerShape:
    """A convolution and its input; a linear layer is a 1x1 convolution of `images` x `width` rows.

    Attributes:
        images: N. channels: C. outputs: M. height, width: of the input in pixels.
        kernel, stride, dilation: (vertical, horizontal).
        padding: zeros at (top, bottom, left, right).
        input_gradient: whether the backward pass gives one; a first layer's does not.

    Raises:
        UsageError: a size below 1, or a kernel that does not fit.
    """

    images: int
    channels: int
    outputs: int
    height: int = 1
    width: int = 1
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    input_gradient: bool = True

    def __post_init__(self) -> None:
        sizes = (self.images, self.channels, self.outputs, self.height, self.width)
        if min(*sizes, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise UsageError(f"{self}: sizes must be at least 1 and padding at least 0")
        try:
            _ = self.geometry
        except ValueError as error:
            raise UsageError(f"{self}: {error}") from None

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.Linear, input_shape: Sequence[int], *, input_gradient: bool = True) -> LayerShape:
        """The shape of a stock layer on inputs (N, C, H, W), or (..., features). Raises UsageError for others."""
        from torch import nn

        if isinstance(layer, nn.Linear):
            if len(input_shape) < 1 or input_shape[-1] != layer.in_features:
                raise UsageError(f"an input of {tuple(input_shape)} does not fit a linear layer of {layer.in_features}")
            rows = math.prod(input_shape[:-1])
            return cls(rows, layer.in_features, layer.out_features, input_gradient=input_gradient)
        if len(input_shape) != 4 or input_shape[1] != layer.in_channels or layer.groups > 1:
            raise UsageError(f"an input of {tuple(input_shape)} does not fit {layer}: expected (N, C, H, W), one group")
        if layer.padding == "same":
            spans = [layer.dilation[axis] * (layer.kernel_size[axis] - 1) for axis in range(2)]
            padding = tuple(side for span in spans for side in (span // 2, span - span // 2))
        else:
            given = (0, 0) if isinstance(layer.padding, str) else layer.padding
            padding = (given[0], given[0], given[1], given[1])
        return cls(
            input_shape[0], layer.in_channels, layer.out_channels, input_shape[2], input_shape[3],
            layer.kernel_size, layer.stride, padding, layer.dilation, input_gradient,  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def geometry(self) -> Geometry:
        """Where the taps land."""
        return Geometry.of((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation)

    @property
    def pixels(self) -> int:
        """P, of the input."""
        return self.images * self.height * self.width

    @property
    def places(self) -> int:
        """Q, pixels of the output."""
        return self.images * math.prod(self.geometry.output)

    @property
    def taps(self) -> int:
        """R, pixels that one output sees."""
        return math.prod(self.kernel)

    @property
    def visits(self) -> int:
        """Pairs of an output and a pixel that it sees: Q * R without those that fall on padding."""
        seen = (
            (rows.stop - rows.start) * (columns.stop - columns.start)
            for _, (rows, columns), _ in self.geometry.windows()
        )
        return self.images * sum(seen)


@dataclass(frozen=True)
class Problem:
    """A layer under a setting, in the letters of `thrifty.ops.clusters`.

    Attributes:
        shape: the layer.
        length: L, channels a piece.
        entries: E, of the codebook.
        clusters: K, of all groups together.
    """

    shape: LayerShape
    length: int
    entries: int
    clusters: float

    @property
    def groups(self) -> int:
        """G, pieces a pixel."""
        return piece_count(self.shape.channels, self.length)

    @property
    def table(self) -> float:
        """Numbers in the table of shared products, K * R * M."""
        return self.clusters * self.shape.taps * self.shape.outputs


def problem(shape: LayerShape, *, length: int, bits: int, remaining_ratio: float | None = None) -> Problem:
    """The problem of `shape` under a setting.

    Args:
        shape: the layer.
        length: channels a piece; cut to the layer's channels.
        bits: log2 of the codebook's entries.
        remaining_ratio: clusters / pieces as measured; where None, every entry has a member.

    Raises:
        UsageError: a number out of range.
    """
    if length < 1 or not 1 <= bits <= 31:
        raise UsageError(f"length {length} and bits {bits}: at least 1 channel, and 1 to 31 bits")
    if remaining_ratio is not None and not 0.0 < remaining_ratio <= 1.0:
        raise UsageError(f"a remaining ratio of {remaining_ratio}: it must be above 0 and at most 1")
    length = min(length, shape.channels)
    entries = min(1 << bits, shape.pixels)
    ratio = entries / shape.pixels if remaining_ratio is None else remaining_ratio
    groups = piece_count(shape.channels, length)
    return Problem(shape, length, entries, max(ratio * shape.pixels * groups, groups))
