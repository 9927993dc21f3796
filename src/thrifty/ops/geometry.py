"""Where a convolution's taps land: the one place that knows kernel, stride, padding and dilation arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """A 2-D convolution's shape, in pixels. `padding` is (top, left); the rest follows from the output size."""

    input: Pair
    output: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @staticmethod
    def of(input: Pair, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair) -> "Geometry":
        """From padding (top, bottom, left, right). Raises ValueError when the kernel does not fit the input."""
        top, bottom, left, right = padding
        reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
        room = (input[0] + top + bottom, input[1] + left + right)
        if room[0] < reach[0] or room[1] < reach[1]:
            raise ValueError(
                f"a kernel that reaches {reach[0]}x{reach[1]} pixels is larger than the padded input {room}"
            )
        output = ((room[0] - reach[0]) // stride[0] + 1, (room[1] - reach[1]) // stride[1] + 1)
        return Geometry(input, output, kernel, stride, (top, left), dilation)

    @property
    def taps(self) -> int:
        """Pixels that one output sees."""
        return self.kernel[0] * self.kernel[1]

    @property
    def far_padding(self) -> Pair:
        """Zeros to add (or pixels to leave out, when negative) behind the input so that exactly the outputs fit."""
        bottom, right = (
            (self.output[i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            - self.padding[i] - self.input[i]
            for i in range(2)
        )  # fmt: skip
        return bottom, right

    @property
    def symmetric(self) -> bool:
        """Whether `padding` on all four sides gives the same output size, as torch's convolution has it."""
        for i in range(2):
            room = self.input[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1
            if room < 0 or room // self.stride[i] + 1 != self.output[i]:
                return False
        return True

    def flat(self) -> list[int]:
        """The twelve numbers as ops and kernels take them."""
        return [*self.input, *self.output, *self.kernel, *self.stride, *self.padding, *self.dilation]

    @staticmethod
    def unflat(numbers: list[int]) -> "Geometry":
        """The inverse of `flat`. Raises ValueError for another length."""
        if len(numbers) != 12:
            raise ValueError(f"a geometry: expected 12 numbers, got {len(numbers)}")
        pairs = [(numbers[i], numbers[i + 1]) for i in range(0, 12, 2)]
        return Geometry(*pairs)

    def windows(self) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
        """For each tap: its index, the outputs that see a pixel through it, and the pixels they see."""
        for tap in range(self.taps):
            seen = [self._span(axis, divmod(tap, self.kernel[1])[axis]) for axis in range(2)]
            if all(span is not None for span in seen):
                (out_h, in_h), (out_w, in_w) = seen  # type: ignore[misc]
                yield tap, (out_h, out_w), (in_h, in_w)

    def _span(self, axis: int, position: int) -> tuple[slice, slice] | None:
        shift = position * self.dilation[axis] - self.padding[axis]
        step = self.stride[axis]
        first = max(0, -(shift // step))
        last = min(self.output[axis] - 1, (self.input[axis] - 1 - shift) // step)
        if last < first:
            return None
        start = first * step + shift
        return slice(first, last + 1), slice(start, last * step + shift + 1, step)


@dataclass(frozen=True)
class Pool:
    """A 2-D max pool's shape, in pixels; its windows begin `padding` before the map."""

    output: Pair
    kernel: Pair
    stride: Pair
    padding: Pair

    @staticmethod
    def of(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> "Pool":
        """Over a map of `size`. Raises ValueError when no window fits."""
        output = [(size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
        if min(output) < 1:
            raise ValueError(f"a pool of {kernel[0]}x{kernel[1]} pixels is larger than the padded map of {size}")
        return Pool((output[0], output[1]), kernel, stride, padding)

    def flat(self) -> list[int]:
        """The eight numbers as kernels take them."""
        return [*self.output, *self.kernel, *self.stride, *self.padding]

    @staticmethod
    def unflat(numbers: list[int]) -> "Pool":
        """The inverse of `flat`. Raises ValueError for another length."""
        if len(numbers) != 8:
            raise ValueError(f"a pool: expected 8 numbers, got {len(numbers)}")
        return Pool(*[(numbers[i], numbers[i + 1]) for i in range(0, 8, 2)])
