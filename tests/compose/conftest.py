"""A method to test with: layers that compute what the stock layers compute, and count how often."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from thrifty.core.config import MethodConfig
from thrifty.core.counters import Event, LayerCounters
from thrifty.core.registry import Method, register_method
from thrifty.core.surgery import adopt, restore

OWN = ("counters", "stage", "seen")


class _Counting:
    method: ClassVar[str] = "counting"
    counters: LayerCounters
    stage: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counters.add(steps=1, macs=10, dense_macs=20, remaining_ratio=0.5, stages_s={"gemm": 0.25})
        return super().forward(x)

    def trace_row(self) -> dict[str, Any] | None:
        return {"stage": self.stage, "remaining_ratio": 0.5, "error": 0.0} if self.counters.steps else None


class CountingConv2d(_Counting, nn.Conv2d):
    def to_stock(self) -> nn.Module:
        return restore(self, nn.Conv2d, drop=OWN)


class CountingLinear(_Counting, nn.Linear):
    def to_stock(self) -> nn.Module:
        return restore(self, nn.Linear, drop=OWN)


@dataclass(frozen=True)
class Counting(MethodConfig):
    """Moves a stage every `move_every` steps; breaks on purpose at the layer `broken`."""

    method: ClassVar[str] = "counting"
    move_every: int = 0
    broken: str = ""
    broken_controller: bool = False


class Mover:
    def __init__(self, config: Counting, layers: dict[str, Any]) -> None:
        if config.broken_controller:
            raise RuntimeError("no controller")
        self.config, self.layers, self.stage = config, layers, 0
        self.set(0)

    def set(self, stage: int) -> None:
        self.stage = stage
        for layer in self.layers.values():
            layer.stage = stage

    def step(self, step: int, loss: float) -> list[Event]:
        if not self.config.move_every or step % self.config.move_every:
            return []
        self.set(self.stage + 1)
        return [Event(step, f"stage {self.stage - 1} -> {self.stage}", f"loss {loss:.1f}")]

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "tensor": torch.tensor([float(self.stage)])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set(state["stage"])


def count_conv(module: nn.Conv2d, name: str, config: Counting) -> nn.Module | str:
    if name == config.broken:
        raise RuntimeError("broken on purpose")
    if module.groups > 1:
        return "groups"
    layer = adopt(module, CountingConv2d, counters=LayerCounters(), stage=0)
    layer.register_buffer("seen", torch.zeros(3), persistent=False)
    return layer


def count_linear(module: nn.Linear, name: str, config: Counting) -> nn.Module | str:
    if name == config.broken:
        raise RuntimeError("broken on purpose")
    return adopt(module, CountingLinear, counters=LayerCounters(), stage=0)


register_method(Counting, Method({nn.Conv2d: count_conv, nn.Linear: count_linear}, Mover))


class TaggedLinear(CountingLinear):
    method: ClassVar[str] = "tagging"


@dataclass(frozen=True)
class Tagging(MethodConfig):
    """Handles linear layers only, so that it meets `Counting` on them; `promise` picks a promise to break."""

    method: ClassVar[str] = "tagging"
    promise: str = ""


def tag_linear(module: nn.Linear, name: str, config: Tagging) -> nn.Module | str:
    layer = adopt(module, TaggedLinear, counters=LayerCounters(), stage=0)
    if config.promise == "parameters":
        layer.weight = nn.Parameter(module.weight.detach().clone())
    elif config.promise == "keys":
        layer.register_buffer("table", torch.zeros(1))
    elif config.promise == "class":
        return nn.Identity()
    return layer


register_method(Tagging, Method({nn.Linear: tag_linear}))


@pytest.fixture
def counting() -> type[Counting]:
    return Counting


@pytest.fixture
def tagging() -> type[Tagging]:
    return Tagging


def build_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 4, 5)),
    )


@pytest.fixture
def net() -> nn.Sequential:
    """A fresh net of conv, norm, grouped conv and linear for batches (B, 3, 6, 6), always with the same weights."""
    return build_net()


@pytest.fixture
def twin() -> nn.Sequential:
    """The same net once more, to stay stock."""
    return build_net()
