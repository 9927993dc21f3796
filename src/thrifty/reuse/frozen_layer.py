"""FrozenConv2d: a convolution for inference that looks its products up. No weights, no multiplications by them.

float32 on the CPU or anywhere the reference runs; other dtypes are computed in float32 and returned as they came. An
image that holds NaN or infinity gets NaN outputs throughout, the others are not touched by it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from thrifty.core.errors import ModelError
from thrifty.ops.geometry import Geometry
from thrifty.ops.level_codes import level_codes
from thrifty.ops.table_conv import INT16, pack_table, table_conv
from thrifty.reuse.frozen_levels import Levels, table_of

Pair = tuple[int, int]


class FrozenConv2d(nn.Module):
    """Inputs (N, C, H, W) or (C, H, W) -> outputs (N, M, OH, OW), as the `nn.Conv2d` that it was made from.

    Made by `thrifty.reuse.freeze`. Raises ModelError when a gradient is asked for: the tables have none.
    """

    table: Tensor
    scale: Tensor
    bias: Tensor
    thresholds: Tensor

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.settings = settings
        self.in_channels: int = settings["in_channels"]
        self.length: int = settings["length"]
        self.bits: int = settings["bits"]
        self.skip: bool = settings["skip"]
        self.relu: bool = settings["relu"]
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @staticmethod
    def of(
        conv: nn.Conv2d,
        levels: Levels,
        length: int,
        *,
        headroom_M: Tensor,
        bias_M: Tensor,
        skip: bool = False,
        relu: bool = False,
        pool: nn.MaxPool2d | None = None,
    ) -> "FrozenConv2d":
        """From a convolution, the levels of its input, and the largest sum of one sign that each output may meet.

        Args:
            skip: leave out pieces that are zero; pays where many are. Needs levels with a zero.
            relu: clip the outputs at zero.
            pool: max-pool the outputs as this layer does; see `can_pool`.
        """
        weight = conv.weight.detach().float()
        table = table_of(weight.flatten(2), levels.values, length)
        peak_M = torch.maximum(headroom_M, table.abs().amax((0, 1, 2)))
        scale_M = (peak_M / INT16.max).clamp_min(torch.finfo(torch.float32).tiny)
        rows = (table / scale_M).round_().clamp_(INT16.min, INT16.max).to(torch.int16)
        settings = {
            "in_channels": conv.in_channels, "kernel": list(conv.kernel_size), "stride": list(conv.stride),
            "padding": list(zeros_around(conv)), "dilation": list(conv.dilation), "length": length, "bits": levels.bits,
            "skip": skip and levels.zero, "relu": relu,
            "pool": pool_numbers(pool),
        }  # fmt: skip
        tensors = {
            "table": pack_table(rows, 128 if skip else 64),
            "scale": scale_M,
            "bias": bias_M.clone(),
            "thresholds": levels.thresholds,
        }
        return FrozenConv2d(settings, tensors)

    def check(self) -> None:
        """Raise ValueError where settings and tensors do not belong together, as in a file that is not ours."""
        channels, outputs = self.in_channels, self.scale.shape[0]
        kernel = self.settings["kernel"]
        if not (channels >= 1 and self.length >= 1 and self.bits >= 1 and self.length * self.bits <= 8):
            raise ValueError(f"{channels} channels in pieces of {self.length}, {self.bits} bits each")
        numbers = [self.settings[key] for key in ("kernel", "stride", "padding", "dilation", "pool")]
        if [len(some) for some in numbers[:4]] != [2, 2, 4, 2] or len(numbers[4]) not in (0, 6):
            raise ValueError("kernel, stride, padding, dilation or pool have a wrong length")
        if any(type(number) is not int or number < 0 for some in numbers for number in some):
            raise ValueError("kernel, stride, padding, dilation and pool must be whole numbers")
        rows = -(-channels // self.length) * 2 ** (self.length * self.bits)
        width = self.table.shape[-1]
        expected = {
            "table": ((-(-outputs // width), kernel[0] * kernel[1], rows, width), torch.int16),
            "scale": ((outputs,), torch.float32),
            "bias": ((outputs,), torch.float32),
            "thresholds": ((2**self.bits - 1, channels), torch.float32),
        }
        for name, (shape, dtype) in expected.items():
            tensor = self.get_buffer(name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.isfinite().all():
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {shape} {dtype}, finite")

    def forward(self, input: Tensor) -> Tensor:
        """As the stock layer's forward, in inference."""
        if torch.is_grad_enabled() and input.requires_grad:
            raise ModelError("a frozen layer has no gradient: call it under torch.no_grad(), or train the stock model")
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        if batch.dim() != 4 or batch.shape[1] != self.in_channels:
            raise ModelError(
                f"a frozen convolution of {self.in_channels} channels got an input of {tuple(input.shape)}: "
                "expected (N, C, H, W) or (C, H, W)"
            )
        if not batch.is_floating_point():
            raise ModelError(f"a frozen convolution takes floating-point inputs, got {batch.dtype}")
        shape = self._geometry((batch.shape[2], batch.shape[3]))
        rows_PC = batch.float().permute(0, 2, 3, 1).reshape(-1, self.in_channels)
        codes_PG, bad = level_codes(rows_PC, self.thresholds, self.length, self.bits)
        pool = self._pool(shape.output)
        y = table_conv(self.table, self.scale, self.bias, codes_PG, shape.flat(), pool.flat(), self.skip, self.relu)
        if bad.item():
            y[~batch.flatten(1).isfinite().all(1)] = torch.nan
        y = y.permute(0, 3, 1, 2).to(input.dtype)
        return y if input.dim() == 4 else y.squeeze(0)

    def _geometry(self, size: Pair) -> Geometry:
        s = self.settings
        try:
            return Geometry.of(size, *(tuple(s[key]) for key in ("kernel", "stride", "padding", "dilation")))
        except ValueError as error:
            raise ModelError(f"the input is too small for a frozen convolution: {error}") from None

    def _pool(self, size: Pair) -> Geometry:
        kernel, stride, padding = (1, 1), (1, 1), (0, 0)
        if self.settings["pool"]:
            k_h, k_w, s_h, s_w, p_h, p_w = self.settings["pool"]
            kernel, stride, padding = (k_h, k_w), (s_h, s_w), (p_h, p_w)
        try:
            return Geometry.of(size, kernel, stride, (padding[0], padding[0], padding[1], padding[1]), (1, 1))
        except ValueError as error:
            raise ModelError(f"the input is too small for a frozen convolution and its pool: {error}") from None

    def extra_repr(self) -> str:
        """What the table holds."""
        return (
            f"{self.in_channels}, {self.scale.shape[0]}, kernel={tuple(self.settings['kernel'])}, "
            f"length={self.length}, "
            f"bits={self.bits}, skip={self.skip}, relu={self.relu}, "
            f"pool={tuple(self.settings['pool']) or None}"
        )


def pool_numbers(pool: nn.MaxPool2d | None) -> list[int]:
    """Kernel, stride and padding, two numbers each; none for no pool."""
    return [] if pool is None else [*_pair(pool.kernel_size), *_pair(pool.stride), *_pair(pool.padding)]


def can_pool(pool: nn.Module) -> bool:
    """Whether the layer is a max-pool that the kernel can do at the end of a convolution."""
    return (
        isinstance(pool, nn.MaxPool2d)
        and not pool.ceil_mode
        and not pool.return_indices
        and _pair(pool.dilation) == (1, 1)
    )


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def zeros_around(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Zeros that the convolution adds at (top, bottom, left, right)."""
    if conv.padding == "valid":
        return 0, 0, 0, 0
    if isinstance(conv.padding, str):
        height, width = (conv.dilation[i] * (conv.kernel_size[i] - 1) for i in range(2))
        return height // 2, height - height // 2, width // 2, width - width // 2
    height, width = conv.padding
    return height, height, width, width
