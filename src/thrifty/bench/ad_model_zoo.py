"""The models of `ad-models`: stock torch.nn, with the blocks that a user would checkpoint by hand marked by `wrap`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

Wrap = Callable[..., Any]


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """A residual network of basic blocks."""

    def __init__(self, width: int = 32, blocks: int = 8) -> None:
        super().__init__()
        self.stem = _conv(3, width)
        self.blocks = nn.ModuleList(nn.Sequential(_conv(width, width), _conv(width, width)) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        x = self.stem(x)
        for block in self.blocks:
            x = wrap(lambda x, block=block: torch.relu(block(x) + x), x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Plain(nn.Module):
    """A plain CNN."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [3, *[width] * 4, *[2 * width] * 6]
        self.blocks = nn.ModuleList(_conv(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        for at, block in enumerate(self.blocks):
            x = wrap(block, x)
            x = nn.functional.max_pool2d(x, 2) if at == 3 else x
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """An LSTM cell over time."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Sequences (B, T, width) -> logits (B, 10)."""
        hidden = cell = torch.zeros(x.shape[0], x.shape[2])
        for turn in range(x.shape[1]):
            hidden, cell = wrap(lambda i, h, c: self.cell(i, (h, c)), x[:, turn], hidden, cell)
        logits: Tensor = self.head(hidden)
        return logits


class Tree(nn.Module):
    """A child-sum TreeLSTM on complete binary trees, by recursion."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.gates, self.forget = nn.Linear(2 * width, 3 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Leaves (B, leaves, width) -> logits (B, 10)."""

        def visit(start: int, stop: int) -> tuple[Tensor, Tensor]:
            if stop - start == 1:
                zero = torch.zeros_like(x[:, start])
                result: tuple[Tensor, Tensor] = wrap(self._join, x[:, start], zero, zero, zero, zero)
                return result
            middle = (start + stop) // 2
            (h1, c1), (h2, c2) = visit(start, middle), visit(middle, stop)
            result = wrap(self._join, torch.zeros_like(h1), h1, c1, h2, c2)
            return result

        logits: Tensor = self.head(visit(0, x.shape[1])[0])
        return logits

    def _join(self, x: Tensor, h1: Tensor, c1: Tensor, h2: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
        i, o, u = self.gates(torch.cat((x, h1 + h2), 1)).chunk(3, 1)
        f1, f2 = (torch.sigmoid(self.forget(torch.cat((x, h), 1))) for h in (h1, h2))
        cell = torch.sigmoid(i) * torch.tanh(u) + f1 * c1 + f2 * c2
        return torch.sigmoid(o) * torch.tanh(cell), cell


class Encoder(nn.Module):
    """A Transformer encoder."""

    def __init__(self, width: int = 256, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Sequences (B, T, width) -> logits (B, 10)."""
        for layer in self.layers:
            x = wrap(layer, x)
        logits: Tensor = self.head(x.mean(1))
        return logits


class UNet(nn.Module):
    """A small U-Net as in diffusion models, with group norm and SiLU."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
            )  # fmt: skip

        self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.head = nn.Conv2d(width, 10, 1)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """Images (B, 3, H, W) -> (B, 10)."""
        kept = []
        for at, block in enumerate(self.down):
            x = wrap(block, x if at == 0 else nn.functional.avg_pool2d(x, 2))
            kept.append(x)
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = wrap(block, torch.cat((nn.functional.interpolate(x, scale_factor=2.0), skip), 1))
        return self.head(x).mean((2, 3))


class Flow(nn.Module):
    """A neural ODE by Heun's method with adaptive steps: how many there are depends on the values."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(width, 4 * width), nn.Tanh(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, wrap: Wrap) -> Tensor:
        """States (B, width) -> logits (B, 10)."""
        at, step = 0.0, 0.05
        while at < 4.0:
            new, error = wrap(self._heun, x, step)
            worst = float(error)
            if worst < 1e-2:
                x, at = new, at + step
            step = min(4.0 - at, step * min(2.0, max(0.5, 0.9 * (1e-2 / (worst + 1e-9)) ** 0.5))) or 1.0
        logits: Tensor = self.head(x)
        return logits

    def _heun(self, x: Tensor, step: float) -> tuple[Tensor, Tensor]:
        first = self.field(x)
        euler = x + step * first
        new = x + step / 2 * (first + self.field(euler))
        return new, (new - euler).detach().abs().max()


# name -> (model, shape of its input)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (Plain, (16, 3, 32, 32)),
    "resnet": (Residual, (16, 3, 32, 32)),
    "lstm": (Recurrent, (64, 64, 256)),
    "treelstm": (Tree, (32, 64, 256)),
    "transformer": (Encoder, (8, 128, 256)),
    "unet": (UNet, (8, 3, 32, 32)),
    "ode": (Flow, (512, 128)),
}
