"""Design for a user who adapts: the gradient goes through another agent's gradient steps.

A user learns, by gradient descent on his own effort, how to work with an interface; the designer wants the interface
with which the user ends up quick. So the designer differentiates through every step of the user's learning, and each of
these is a derivative itself: reverse mode over reverse mode, hundreds of steps deep.
"""

from __future__ import annotations

import torch
from torch import Tensor

import thrifty


def effort(habit: Tensor, interface: Tensor, tasks: Tensor) -> Tensor:
    """What the user pays: missed tasks, and the strain of a habit far from rest.

    habit (width,), interface (width, width), tasks (tasks, width).
    """
    response = torch.tanh(tasks @ interface) @ habit
    return (response - 1).square().mean() + 0.01 * habit.square().sum()


def learned_habit(interface: Tensor, tasks: Tensor, steps: int) -> Tensor:
    """The habit after so many steps of the user's own gradient descent."""
    habit = torch.zeros(tasks.shape[1], dtype=tasks.dtype)
    learn = thrifty.grad(effort, memory="log")
    for _ in range(steps):
        habit = habit - 0.05 * learn(habit, interface, tasks)
    return habit


def cost_of_design(interface: Tensor, tasks: Tensor, steps: int) -> Tensor:
    """The designer's objective: the adapted user's effort, and a plain interface."""
    return effort(learned_habit(interface, tasks, steps), interface, tasks) + 0.001 * interface.square().sum()


def main(turns: int = 5) -> None:
    """Improve an interface for the user that it will make."""
    torch.manual_seed(0)
    tasks, interface = torch.randn(20, 8), 0.3 * torch.randn(8, 8)
    step = thrifty.value_and_grad(cost_of_design, memory="log")
    for turn in range(turns):
        value, gradient = step(interface, tasks, 50)
        interface = interface - 0.5 * gradient
        print(f"design {turn}: the adapted user's cost {float(value):.4f}")


if __name__ == "__main__":
    main()
