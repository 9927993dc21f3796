"""Hypergradients: how the loss after 1,000 steps of SGD changes with each step's learning rate and with the momentum.

The whole training is one program; its gradient needs every state of the network backwards. Plain reverse mode keeps
them all; here a few dozen are kept. Source of the question: Maclaurin, Duvenaud & Adams, *Gradient-based
Hyperparameter Optimization through Reversible Learning* (ICML 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

import thrifty


def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of a network with one hidden layer: x (B, n), y (B,), weights (n, h) and (h,)."""
    return (torch.tanh(x @ weights[0]) @ weights[1] - y).square().mean()


def train(rates: Tensor, momentum: Tensor, weights: list[Tensor], x: Tensor, y: Tensor, batch: int) -> list[Tensor]:
    """SGD with momentum: one step a rate, over consecutive batches. The inner gradient is an operator of its own."""
    gradient = thrifty.grad(loss)
    speed = [torch.zeros_like(w) for w in weights]
    for step in range(len(rates)):
        start = step * batch % len(x)
        found = gradient(weights, x[start : start + batch], y[start : start + batch])
        speed = [momentum * v + g for v, g in zip(speed, found, strict=True)]
        weights = [w - rates[step] * v for w, v in zip(weights, speed, strict=True)]
    return weights


def validation_loss(
    settings: tuple[Tensor, Tensor], weights: list[Tensor], data: tuple[Tensor, ...], batch: int
) -> Tensor:
    """Loss on held-out data after training: settings (rates (steps,), momentum ()), data (x, y, held x, held y)."""
    x, y, held_x, held_y = data
    return loss(train(*settings, weights, x, y, batch), held_x, held_y)


def problem(width: int = 16, hidden: int = 32, count: int = 256) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Weights to begin with, and data of a noisy ridge function."""
    x = torch.randn(2 * count, width)
    y = torch.sin(x @ torch.randn(width) / width**0.5) + 0.1 * torch.randn(2 * count)
    weights = [torch.randn(width, hidden) / width**0.5, torch.randn(hidden) / hidden**0.5]
    return weights, (x[:count], y[:count], x[count:], y[count:])


def main(turns: int = 3) -> None:
    """Improve 1,000 learning rates and a momentum by their own gradient."""
    torch.manual_seed(0)
    weights, data = problem()
    rates, momentum = torch.full((1000,), 0.02), torch.tensor(0.5)
    step = thrifty.value_and_grad(validation_loss, memory="log")
    for turn in range(turns):
        value, (by_rate, by_momentum) = step((rates, momentum), weights, data, 32)
        rates, momentum = rates - 0.1 * by_rate, momentum - 0.1 * by_momentum
        print(f"training {turn}: validation loss {float(value):.5f}, momentum {float(momentum):.3f}")


if __name__ == "__main__":
    main()
