"""A network and images for tests of whole loops: learnable in seconds, wide enough for reuse."""

import torch
from torch import nn

import thrifty

CLASSES = 3
METHODS = [thrifty.Reuse(stages=(thrifty.Stage(8, 3),), total_steps=8, measure=False)]
"""Clusters first and exact products soon after: what a resumed training must carry is then more than counters."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 16, CLASSES),
    )  # fmt: skip


def images(count: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 8, 8) whose brightest channel is their class, and the classes (N,)."""
    noise = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    x = torch.randn(count, 3, 8, 8, generator=noise)
    x[torch.arange(count), labels] += 1
    return x, labels
