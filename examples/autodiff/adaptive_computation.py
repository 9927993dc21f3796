"""A network that thinks for as long as its input is hard: the gradient through a loop that halts by itself.

Each turn refines a state and adds to a halting probability; the turns end when the largest sum of them passes one. How
many there are depends on the values, so nobody can declare the length. Source of the halting rule: Graves, *Adaptive
Computation Time for Recurrent Neural Networks* (2016).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import thrifty


class Weights(NamedTuple):
    """A recurrent cell and its halting unit; `patience` scales how little a turn adds to the halting sum."""

    state: Tensor  # (width, width)
    inputs: Tensor  # (width, width)
    halt: Tensor  # (width,)


def make_weights(width: int) -> Weights:
    """Small random weights."""
    return Weights(
        torch.randn(width, width) / width**0.5, torch.randn(width, width) / width**0.5, torch.randn(width) / width
    )


def think(weights: Weights, x: Tensor, patience: float) -> tuple[Tensor, int]:
    """Inputs (B, width) -> (mean state weighted by the halting probabilities (B, width), turns taken).

    Harder inputs, those of larger norm, halt later.
    """
    state = torch.zeros_like(x)
    answer = torch.zeros_like(x)
    total = torch.zeros(x.shape[0])
    hardness = 1 + x.square().mean(1)
    turns = 0
    while float(total.min()) < 1:
        state = torch.tanh(state @ weights.state + x @ weights.inputs)
        step = torch.sigmoid(state @ weights.halt) / (patience * hardness)
        step = torch.minimum(step, (1 - total).clamp(min=0))
        answer = answer + step.unsqueeze(1) * state
        total = total + step
        turns += 1
    return answer, turns


def loss(weights: Weights, x: Tensor, target: Tensor, patience: float) -> tuple[Tensor, int]:
    """(Mean squared error, turns)."""
    answer, turns = think(weights, x, patience)
    return (answer - target).square().mean(), turns


def main(turns: int = 5) -> None:
    """Train for a few steps, in the memory of a few turns."""
    torch.manual_seed(0)
    weights, x = make_weights(32), torch.randn(16, 32)
    target = 0.5 * torch.sin(x)
    step = thrifty.value_and_grad(loss, has_aux=True, memory="log")
    for turn in range(turns):
        (value, turns), gradient = step(weights, x, target, 100.0)
        weights = Weights(*(w - 2 * g for w, g in zip(weights, gradient, strict=True)))
        print(f"step {turn}: loss {float(value):.4f} after {turns} turns of thought")


if __name__ == "__main__":
    main()
