"""The network of the fault drills: everything that a checkpoint must carry, and a place at which a fault may strike."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from thrifty.bench.fault_runs import KILL_AT, MORE_BYTES, NAN_AT, STARVE_AT, starve

_TIMES = 4000  # a batch of 8 images of 8 x 8 then takes 131 MB in each of the layers


class _Spoil(nn.Module):
    """Strikes in the training steps that the environment names: kills, starves, or spoils a pixel of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.steps += 1
        if self.steps == _number(KILL_AT):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == _number(STARVE_AT):
            large = x.repeat(_TIMES, 1, 1, 1)
            starve(_number(MORE_BYTES))
            return large
        if self.steps == _number(NAN_AT):
            x = x.clone()
            x[self.steps % len(x), 0, self.steps % x.shape[2], self.steps % x.shape[3]] = torch.nan
        return x


def _number(name: str) -> int:
    return int(os.environ.get(name, "0"))


def net(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """A small CNN with BatchNorm, dropout, a pool, and a convolution wide enough for clusters."""
    height, width = image_size
    return nn.Sequential(
        _Spoil(),
        nn.Conv2d(in_channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16 * (height // 2) * (width // 2), num_classes),
    )


def wide_net(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Two layers, the hidden one wide enough for hash tables."""
    height, width = image_size
    return nn.Sequential(
        _Spoil(),
        nn.Flatten(),
        nn.Linear(in_channels * height * width, 4096),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(4096, num_classes),
    )
