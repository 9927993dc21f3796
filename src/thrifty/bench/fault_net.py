"""The network of the fault drills: everything that a checkpoint must carry, and a place at which a fault may strike."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from thrifty.bench.fault_runs import KILL_AT, NAN_AT


class _Spoil(nn.Module):
    """In the training steps that the environment names: kills the process, or spoils a pixel of the batch with NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.kill_at = (int(os.environ.get(name, "0")) for name in (NAN_AT, KILL_AT))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.training or self.steps != self.at:
            return x
        spoilt = x.clone()
        spoilt[self.at % len(x), 0, self.at % x.shape[2], self.at % x.shape[3]] = torch.nan
        return spoilt


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
