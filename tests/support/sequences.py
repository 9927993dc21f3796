"""Recurrent and attention layers under reuse, and helpers for their tests."""

import copy

import torch
from torch import Tensor, nn

import thrifty
from thrifty.reuse import Reuse, Stage


def fixed(length: int = 4, bits: int = 3, **settings) -> Reuse:
    return Reuse(stages=(Stage(length, bits),), fixed=True, **settings)


def changed(layer: nn.Module, **settings) -> nn.Module:
    """The layer under one setting of reuse for good."""
    model = nn.Sequential(layer)
    applied = thrifty.apply_(model, [fixed(**settings)])
    assert applied.layers[0].action == "reuse", applied.layers[0].reason
    return model[0]


def both(model: nn.Module, **settings) -> tuple[nn.Module, nn.Module]:
    """The model as it was, and under reuse, with equal weights of their own."""
    ours = copy.deepcopy(model)
    thrifty.apply_(ours, [fixed(**settings)])
    return model, ours


def answers(model: nn.Module, run, seed: int = 3) -> list[Tensor]:
    """Every tensor that `run(model)` gives, and the gradients of all parameters of a function of them."""
    torch.manual_seed(seed)
    found = flat(run(model))
    loss = sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape)).sin().sum() for t in found)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [*(t.detach() for t in found), *gradients]


def flat(found) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, nn.utils.rnn.PackedSequence):
        return [found.data]
    return [t for part in found if part is not None for t in flat(part)]
