"""Networks for the tests of `thrifty train`, given to it as `tiny_nets:function`."""

import os
import signal

import torch
from torch import nn

KILL_AT = "TINY_NETS_KILL_AT"
SIGNAL_AT = "TINY_NETS_SIGNAL_AT"
RANK = "TINY_NETS_RANK"


def net(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """A net with everything that a checkpoint must carry: BatchNorm, dropout, a convolution wide enough for reuse.

    With TINY_NETS_KILL_AT=n in the environment the process is killed in the n-th training step of all nets in it;
    with TINY_NETS_SIGNAL_AT=n it gets a SIGINT there, as from Ctrl-C. With TINY_NETS_RANK=r in the environment, this
    happens to worker r alone.
    """
    height, width = image_size
    model = nn.Sequential(
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
    return _signalled(model)


def _signalled(model: nn.Module) -> nn.Module:
    for variable, number in ((KILL_AT, signal.SIGKILL), (SIGNAL_AT, signal.SIGINT)):
        mine = os.environ.get(RANK) in (None, os.environ.get("RANK"))
        if variable in os.environ and mine:
            model.register_forward_hook(_SignalAt(int(os.environ[variable]), number))
    return model


def plain(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Without BatchNorm and dropout: the gradient of a batch is the mean of those of its parts. Signals as in `net`."""
    height, width = image_size
    model = nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * (height // 2) * (width // 2), num_classes),
    )
    return _signalled(model)


class _Unused(nn.Module):
    """Its last layer takes no part in the loss."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.spare = inner, nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def unused(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    return _Unused(plain(num_classes, in_channels, image_size))


class _SignalAt:
    steps = 0  # of all nets of the process

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number = at, number

    def __call__(self, model: nn.Module, inputs: object, output: object) -> None:
        if model.training:
            _SignalAt.steps += 1
            if _SignalAt.steps == self.at:
                os.kill(os.getpid(), self.number)


class _TurnsBad(nn.Module):
    """Its output is not a number from the n-th training step on."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at, self.steps = inner, at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return self.inner(x) * (float("nan") if self.steps >= self.at else 1.0)


def turns_bad(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    return _TurnsBad(net(num_classes, in_channels, image_size), at=7)


def wrong_width(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))


def raises(num_classes: int) -> nn.Module:
    raise ValueError("no such thing")


def not_a_module() -> str:
    return "net"


def needs_more(num_classes: int, secret: int) -> nn.Module:
    return nn.Linear(num_classes, secret)


def fails_in_forward(num_classes: int) -> nn.Module:
    return nn.Linear(3, num_classes)


NUMBER = 3
