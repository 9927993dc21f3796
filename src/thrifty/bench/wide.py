"""What the benchmarks of wide layers share: generated classes in clusters, arms that train, and their clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CLUSTER = 50  # classes a cluster


@dataclass
class Clusters:
    """Queries around centres, whose labels are classes of their cluster."""

    centres: Tensor
    classes: int

    @classmethod
    def make(cls, classes: int, features: int, seed: int = 0) -> Clusters:
        """About `CLUSTER` classes a centre, at least 16 centres."""
        import torch

        source = torch.Generator().manual_seed(seed)
        return cls(torch.randn(max(16, classes // CLUSTER), features, generator=source), classes)

    def batch(self, rows: int, source: Any) -> tuple[Tensor, Tensor]:
        """Queries (rows, D) and labels (rows,)."""
        import torch

        labels = torch.randint(self.classes, (rows,), generator=source)
        centres = self.centres[labels % len(self.centres)]
        return centres + 0.5 * torch.randn(centres.shape, generator=source), labels


@dataclass
class Arm:
    """A wide output layer and its optimizer; seconds of the three parts of a step are added up."""

    loss: Callable[[Tensor, Tensor], Tensor]
    module: Any
    optimizer: Any
    parts_s: dict[str, list[float]] = field(default_factory=lambda: {"forward": [], "backward": [], "optimizer": []})

    def step(self, x: Tensor, labels: Tensor) -> float:
        """One training step, the gradient of the queries included; returns its seconds."""
        x = x.requires_grad_()
        start = time.perf_counter()
        loss = self.loss(x, labels)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        for name, seconds in zip(self.parts_s, (forward - start, backward - forward, end - backward), strict=True):
            self.parts_s[name].append(seconds)
        return end - start


def dense_arm(features: int, classes: int, lr: float = 1e-3) -> Arm:
    """`nn.Linear` and cross entropy, with torch's fused Adam."""
    import torch
    from torch import nn

    layer = nn.Linear(features, classes)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(layer(x), labels)

    return Arm(loss, layer, torch.optim.Adam(layer.parameters(), lr=lr, fused=True))


def hashed_arm(features: int, classes: int, lr: float = 1e-3, **settings: Any) -> Arm:
    """`LSHSoftmaxLoss` with LazyAdam."""
    from thrifty.lsh import LazyAdam, LSHSoftmaxLoss

    module = LSHSoftmaxLoss(features, classes, **settings)
    optimizer = LazyAdam(module.parameters(), lr=lr)
    optimizer.watch(module)
    return Arm(module, module, optimizer)


def sampled_arm(features: int, classes: int, samples: int, lr: float = 1e-3) -> Arm:
    """`SampledSoftmaxLoss` with LazyAdam."""
    from thrifty.lsh import LazyAdam, SampledSoftmaxLoss

    module = SampledSoftmaxLoss(features, classes, samples=samples)
    optimizer = LazyAdam(module.parameters(), lr=lr)
    optimizer.watch(module)
    return Arm(module, module, optimizer)
