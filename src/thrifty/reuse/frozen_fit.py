"""What a convolution's inputs look like on calibration data, and a frozen layer fitted to them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.reuse.frozen_chains import Chain
from thrifty.reuse.frozen_layer import FrozenConv2d
from thrifty.reuse.frozen_levels import Levels, fit_levels

SAMPLE_PIXELS = 8_192
# Sums of one sign may grow so far beyond the largest seen in calibration before they saturate.
HEADROOM = 1.5


@dataclass(frozen=True)
class Setting:
    """One way to freeze a layer: `length` channels a piece, `bits` a channel, `skip` zeros or not."""

    length: int
    bits: int
    skip: bool = False

    @property
    def entries(self) -> int:
        """Rows of the table for each piece and tap."""
        return int(2 ** (self.length * self.bits))

    def __str__(self) -> str:
        return f"L={self.length} B={self.bits}" + (" skip" if self.skip else "")


@dataclass
class Seen:
    """What calibration saw of one convolution.

    Attributes:
        rows_PC: a sample of its input's pixels.
        peak_M: the largest sum of products of one sign, per output.
        input: one batch, (N, C, H, W), to time and to judge on.
        fitted: levels by their bits.
    """

    rows_PC: Tensor
    peak_M: Tensor
    input: Tensor
    fitted: dict[int, Levels] = field(default_factory=dict)

    def levels(self, bits: int) -> Levels:
        """Levels of so many bits, fitted once."""
        if bits not in self.fitted:
            self.fitted[bits] = fit_levels(self.rows_PC, bits)
        return self.fitted[bits]


def watch(model: nn.Module, chains: list[Chain], batches: list[Tensor]) -> dict[str, Seen]:
    """Run the batches through the model and keep what its convolutions saw, by name; finite inputs only."""
    seen: dict[str, Seen] = {}
    share = max(1, SAMPLE_PIXELS // len(batches))
    generator = torch.Generator().manual_seed(0)

    def look(name: str, conv: nn.Conv2d, x: Tensor) -> None:
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        picked = rows[torch.randint(len(rows), (min(share, len(rows)),), generator=generator)].float()
        peak_M = _peaks(conv, x[:16])
        before = seen.get(name)
        if before is None:
            seen[name] = Seen(picked, peak_M, x.clone(memory_format=torch.preserve_format))
        else:
            before.rows_PC = torch.cat([before.rows_PC, picked])
            before.peak_M = torch.maximum(before.peak_M, peak_M)

    hooks = [
        conv.register_forward_pre_hook(lambda conv, inputs, name=name: look(name, conv, inputs[0]))
        for name, conv in ((chain.conv, model.get_submodule(chain.conv)) for chain in chains)
    ]
    try:
        with torch.inference_mode(False), torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _peaks(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The largest sum of products of one sign (M,): no partial sum in any order can be larger."""

    def most(part: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(part, weight, None, conv.stride, conv.padding, conv.dilation).amax((0, 2, 3))

    weight, x = conv.weight.float(), x.float()
    positive, negative = weight.clamp_min(0), (-weight).clamp_min(0)
    up, down = x.clamp_min(0), (-x).clamp_min(0)
    rising = most(up, positive) + most(down, negative)
    falling = most(up, negative) + most(down, positive)
    return torch.maximum(rising, falling).detach()


def fit(conv: nn.Conv2d, seen: Seen, setting: Setting, *, relu: bool, pool: nn.MaxPool2d | None) -> FrozenConv2d:
    """The frozen layer of this setting."""
    bias_M = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
    return FrozenConv2d.of(
        conv,
        seen.levels(setting.bits),
        setting.length,
        headroom_M=seen.peak_M * HEADROOM,
        bias_M=bias_M,
        skip=setting.skip,
        relu=relu,
        pool=pool,
    )


def output_error(frozen: nn.Module, stock: nn.Module, x: Tensor) -> float:
    """|y - y_frozen|^2 / variance of y, on the input x; 0 where y is constant and met."""
    with torch.no_grad():
        y, y_frozen = stock(x).float(), frozen(x).float()
        return float((y - y_frozen).square().mean() / y.var(correction=0).clamp_min(1e-30))
