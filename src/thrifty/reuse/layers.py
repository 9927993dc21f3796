"""ReuseConv2d and ReuseLinear: stock layers that share products among similar pieces of their input in training.

In eval mode, in the dense stage, and on inputs they cannot use (empty, not floating point, of a shape or dtype that
does not fit) they run the stock forward, bit for bit, with the stock layer's errors. float16 and bfloat16 inputs, and
autocast, are computed in float32 and returned in the dtype that the stock layer would return. Under torch.compile the
layer runs eagerly between compiled parts; torch.export takes the stock forward.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thrifty.core.counters import LayerCounters
from thrifty.core.surgery import restore
from thrifty.ops import _stages
from thrifty.ops._backend import exporting, use_native
from thrifty.ops.clusters import Clusters
from thrifty.ops.conv_block import Block, conv_block
from thrifty.ops.geometry import Geometry, Pair, Pool
from thrifty.ops.reuse_conv2d import multiply_clusters, patches_of, pixels_of, rows_geometry
from thrifty.ops.skip_conv2d import dense_macs
from thrifty.reuse.config import Stage
from thrifty.reuse.encoder import transformed
from thrifty.reuse.state import ReuseState

_HALF_INPUTS = (torch.float32, torch.bfloat16)


class _ReuseLayer(nn.Module):
    """What both layers share; the stock class follows it in the bases."""

    method: ClassVar[str] = "reuse"
    reuse: ReuseState

    @property
    def counters(self) -> LayerCounters:
        """What was done since the last reset, forward and backward."""
        return self.reuse.settle_counters()

    def trace_row(self) -> dict[str, Any] | None:
        """The last step's stage, remaining ratio and error, once."""
        return self.reuse.take_row()

    def forward(self, input: Tensor) -> Tensor:
        """As the stock layer's forward: the same shapes and dtypes in and out."""
        weight: Tensor = self.weight  # type: ignore[assignment]  # the stock class behind this one has it
        stage = self.reuse.stage
        if not self._usable(input, weight):
            return super().forward(input)
        output = self._exact(input) if stage is None else self._on_clusters(input, stage)
        if output is None:
            output = super().forward(input)
            self._count(input, weight, output.numel() // weight.shape[0], None)
        return output

    def _exact(self, input: Tensor) -> Tensor | None:
        """The exact output by a way of its own, or None for the stock layer's."""
        return None

    def _usable(self, x: Tensor, weight: Tensor) -> bool:
        if not self.training or exporting() or not x.is_floating_point() or x.numel() == 0 or not self._fits(x):
            return False
        return x.dtype == weight.dtype or _autocasts(x, weight)

    @abstractmethod
    def _fits(self, x: Tensor) -> bool:
        """Whether the stock layer takes this shape."""

    @abstractmethod
    def _on_clusters(self, input: Tensor, stage: Stage) -> Tensor | None:
        """The approximate output, or None where the input has no clusters."""

    # Counters are plain Python: a compiler that looked into them would compile again at every step.
    @torch.compiler.disable
    def _count(self, x: Tensor, weight: Tensor, rows: int, clusters: Clusters | None) -> None:
        """Book the multiply-adds of one pass: `rows` outputs of `weight` (M, ...), on clusters or dense."""
        dense = rows * weight.numel()
        passes = _passes(x, weight)
        done = dense * passes
        stage = self.reuse.stage
        if clusters is not None and stage is not None:
            pixels, channels = clusters.ids.shape[1], weight[0].numel() if self.reuse.patches else weight.shape[1]
            products = clusters.remaining_ratio * pixels * weight.numel()
            encoder = self.reuse.encoder(min(stage.length, channels), stage.bits)
            done = int(products * passes) + pixels * channels * encoder.macs_per_value
        self.reuse.counters.add(steps=1, macs=done, dense_macs=dense * passes)


class ReuseConv2d(_ReuseLayer, nn.Conv2d):
    """`nn.Conv2d` under reuse; made by `thrifty.apply_`. Shapes and dtypes as `nn.Conv2d`."""

    def to_stock(self) -> nn.Conv2d:
        """The stock layer with the same parameters."""
        return restore(self, nn.Conv2d, drop=("reuse",))

    def _fits(self, x: Tensor) -> bool:
        return x.dim() in (3, 4) and x.shape[-3] == self.in_channels

    @torch.compiler.disable
    def _on_clusters(self, input: Tensor, stage: Stage) -> Tensor | None:
        """The approximate output, or None where the input has no clusters."""
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        if self.padding_mode != "zeros":
            batch = nn.functional.pad(batch, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        geometry = self._geometry(batch)
        with _stages.report_to(self.reuse.seconds), torch.autocast(batch.device.type, enabled=False):
            wide, weight, bias = _in_float32(batch, self.weight, self.bias)
            if self.reuse.patches:
                rows = patches_of(wide, geometry)
                weight, taps = weight.flatten(1), rows_geometry()
            else:
                rows, taps = pixels_of(wide), geometry
            found = self.reuse.quantise(rows, stage, rows.shape[0] // batch.shape[0])
            if found is None:
                return None
            y = multiply_clusters(*found, weight, bias, taps)
        self._count(input, self.weight, y.numel() // self.out_channels, found[1])
        y = y.view(batch.shape[0], *geometry.output, self.out_channels).permute(0, 3, 1, 2)
        y = y.to(_result_dtype(input, self.weight))
        if not _channels_last(batch, self.weight):
            y = y.contiguous()
        return y if input.dim() == 4 else y.squeeze(0)

    @torch.compiler.disable
    def _exact(self, input: Tensor) -> Tensor | None:
        if self.reuse.resting or not self._plain(input):
            return None
        return self._run_block(input, None, relu=False, pool=None)

    def with_relu(self, input: Tensor, pool: nn.MaxPool2d | None) -> Tensor | None:
        """This layer, a ReLU and `pool` as one; None where they must run one by one."""
        if not self._usable(input, self.weight) or not self._plain(input):
            return None
        stage = self.reuse.stage
        if stage is not None and (self.reuse.patches or self.reuse.gradients == "clusters"):
            return None
        return self._run_block(input, stage, relu=True, pool=pool)

    def _plain(self, input: Tensor) -> bool:
        """Whether nothing but an ordinary backward pass can follow, on what the native kernels take."""
        return (
            self.reuse.skip_zeros
            and input.dim() == 4
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and self._takes(input)
            and not transformed()
            and torch.autograd.forward_ad._current_level < 0
        )

    def _takes(self, input: Tensor) -> bool:
        """Whether the kernels know these dtypes: float32, or bfloat16 products under autocast."""
        if not torch.is_autocast_enabled("cpu"):
            return use_native(input, self.weight)
        takes = use_native(self.weight) and input.device.type == "cpu"
        return takes and torch.get_autocast_dtype("cpu") == torch.bfloat16 and input.dtype in _HALF_INPUTS

    @torch.compiler.disable
    def _run_block(self, input: Tensor, stage: Stage | None, *, relu: bool, pool: nn.MaxPool2d | None) -> Tensor | None:
        geometry = self._geometry(input)
        pooling = None if pool is None else _pool_of(geometry.output, pool)
        block = Block(geometry, relu, pooling, self.reuse.limits, half=torch.is_autocast_enabled("cpu"))
        found = None
        with _stages.report_to(self.reuse.seconds), torch.autocast("cpu", enabled=False):
            if stage is not None:
                with torch.no_grad():
                    found = self.reuse.quantise(pixels_of(input.float()), stage, input.shape[2] * input.shape[3])
                if found is None:
                    stage = None
            out = conv_block(input, self.weight, self.bias, block, self._multiplied(found, geometry))
        self._count_block(input, geometry, stage, found)
        return out

    def _multiplied(
        self, found: tuple[Tensor, Clusters] | None, geometry: Geometry
    ) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
        """What stands in for the exact convolution."""
        if found is None:
            return None
        centroids, clusters = found

        def approximate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            y = multiply_clusters(centroids, clusters, weight, bias, geometry).permute(0, 3, 1, 2)
            # A view may not be returned from a backward step's forward: the same memory, as a tensor of its own.
            return torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape, y.stride())

        return approximate

    def _count_block(
        self, x: Tensor, geometry: Geometry, stage: Stage | None, found: tuple[Tensor, Clusters] | None
    ) -> None:
        """Book a pass whose exact products report their multiply-adds themselves."""
        dense = dense_macs(geometry, x.shape[0], self.in_channels, self.out_channels)
        done = 0
        if stage is not None and found is not None:
            encoder = self.reuse.encoder(min(stage.length, self.in_channels), stage.bits)
            pixels = x.shape[0] * x.shape[2] * x.shape[3]
            done = int(found[1].remaining_ratio * pixels * self.weight.numel())
            done += pixels * self.in_channels * encoder.macs_per_value
        self.reuse.counters.add(steps=1, macs=done, dense_macs=dense * _passes(x, self.weight))

    def _geometry(self, batch: Tensor) -> Geometry:
        size = (batch.shape[2], batch.shape[3])
        return Geometry.of(size, self.kernel_size, self.stride, self._zeros_around(), self.dilation)  # type: ignore[arg-type]

    def _zeros_around(self) -> tuple[int, int, int, int]:
        """Zeros that are added at (top, bottom, left, right), from what the stock forward reads."""
        if self.padding_mode != "zeros" or self.padding == "valid":
            return 0, 0, 0, 0
        if isinstance(self.padding, str):
            height, width = (self.dilation[i] * (self.kernel_size[i] - 1) for i in range(2))
            return height // 2, height - height // 2, width // 2, width - width // 2
        height, width = self.padding
        return height, height, width, width


class ReuseLinear(_ReuseLayer, nn.Linear):
    """`nn.Linear` under reuse; made by `thrifty.apply_`. Shapes and dtypes as `nn.Linear`."""

    def to_stock(self) -> nn.Linear:
        """The stock layer with the same parameters."""
        return restore(self, nn.Linear, drop=("reuse",))

    def _fits(self, x: Tensor) -> bool:
        return x.dim() > 0 and x.shape[-1] == self.in_features

    @torch.compiler.disable
    def _on_clusters(self, input: Tensor, stage: Stage) -> Tensor | None:
        """The approximate output, or None where the input has no clusters."""
        with _stages.report_to(self.reuse.seconds), torch.autocast(input.device.type, enabled=False):
            wide, weight, bias = _in_float32(input, self.weight, self.bias)
            rows = wide.reshape(-1, self.in_features)
            images = input.shape[0] if input.dim() > 1 else 1
            found = self.reuse.quantise(rows, stage, rows.shape[0] // images)
            if found is None:
                return None
            y = multiply_clusters(*found, weight, bias, rows_geometry())
        self._count(input, self.weight, rows.shape[0], found[1])
        return y.view(*input.shape[:-1], self.out_features).to(_result_dtype(input, self.weight))


def _passes(x: Tensor, weight: Tensor) -> int:
    """The products that a training step makes of these two: forward, and one for each gradient."""
    if not torch.is_grad_enabled():
        return 1
    return 1 + int(weight.requires_grad) + int(x.requires_grad)


def _pool_of(size: Pair, pool: nn.MaxPool2d) -> Pool:
    kernel, stride, padding = (_pair(value) for value in (pool.kernel_size, pool.stride, pool.padding))
    return Pool.of(size, kernel, stride, padding)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _in_float32(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The three in one dtype in which sums of many terms are safe."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _autocasts(x: Tensor, weight: Tensor) -> bool:
    """Whether autocast is on and takes these; it leaves double precision alone."""
    return torch.is_autocast_enabled(x.device.type) and torch.float64 not in (x.dtype, weight.dtype)


def _result_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(x.device.type) if _autocasts(x, weight) else x.dtype


def _channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether the stock convolution would answer in channels_last; told by the strides, which vmap knows too."""
    for t in (x, weight):
        _, channels, height, width = t.stride()
        ordered = channels * t.shape[1] <= width and width * t.shape[3] <= height
        if ordered and height * t.shape[2] != channels:  # equal where all sizes are 1: that is no order
            return True
    return False
