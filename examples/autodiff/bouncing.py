"""A physical simulation with events: balls under gravity and drag that bounce off a floor and off walls.

The step is cut at the instant of an impact, found by a loop of its own, so how many steps there are depends on the
flight. The gradient of where the balls are in the end tells how to throw them.
"""

from __future__ import annotations

import torch
from torch import Tensor

import thrifty

GRAVITY, DRAG, BOUNCE, WALL = 9.81, 0.05, 0.8, 4.0


def fly(position: Tensor, speed: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """A step of the midpoint rule: position, speed (balls, 2), dt ()."""
    down = torch.tensor([0.0, -GRAVITY], dtype=position.dtype)
    half = speed + dt / 2 * (down - DRAG * speed.norm(dim=1, keepdim=True) * speed)
    later = speed + dt * (down - DRAG * half.norm(dim=1, keepdim=True) * half)
    return position + dt * half, later


def depth(position: Tensor) -> Tensor:
    """How deep each ball is in the floor or in a wall: positive once it is (balls, 2)."""
    return torch.stack((position[:, 0].abs() - WALL, -position[:, 1]), 1)


def impact_time(position: Tensor, speed: Tensor, dt: Tensor) -> Tensor:
    """The instant of the first impact within dt, by the secant rule, differentiable."""
    early, late = torch.zeros_like(dt), dt
    for _ in range(20):
        before, after = (depth(fly(position, speed, t)[0]).max() for t in (early, late))
        middle = early + (late - early) * before / (before - after)
        now = float(depth(fly(position, speed, middle)[0]).max())
        if abs(now) < 1e-9:
            break
        early, late = (middle, late) if now < 0 else (early, middle)
    return middle


def simulate(throw: Tensor, start: Tensor, duration: float, dt: float) -> tuple[Tensor, int]:
    """Where balls thrown at speeds `throw` from `start` (balls, 2) are after `duration` seconds, and the bounces."""
    position, speed, at, bounces = start, throw, 0.0, 0
    step = torch.tensor(dt, dtype=start.dtype)
    while at < duration:
        later, faster = fly(position, speed, step)
        if float(depth(later).max()) > 0 and float(depth(position).max()) < 0:
            impact = impact_time(position, speed, step)
            position, speed = fly(position, speed, impact)
            hit = depth(position) > -1e-6
            speed = torch.where(hit, -BOUNCE * speed, speed)
            position = torch.where(hit, position * (1 - 1e-9), position)
            position = torch.stack((position[:, 0], position[:, 1].abs() + 1e-7), 1)
            at, bounces = at + float(impact), bounces + 1
        else:
            position, speed, at = later, faster, at + dt
    return position, bounces


def miss(throw: Tensor, start: Tensor, target: Tensor, duration: float, dt: float) -> tuple[Tensor, int]:
    """(Mean squared distance from the target in the end, bounces)."""
    position, bounces = simulate(throw, start, duration, dt)
    return (position - target).square().sum(1).mean(), bounces


def main(turns: int = 5) -> None:
    """Aim by the gradient."""
    torch.manual_seed(0)
    start = torch.stack((torch.linspace(-1, 1, 4), torch.ones(4)), 1).double()
    throw = torch.tensor([[2.0, 3.0]] * 4, dtype=torch.float64)
    target = torch.tensor([1.0, 0.5], dtype=torch.float64)
    step = thrifty.value_and_grad(miss, has_aux=True, memory="log")
    for turn in range(turns):
        (value, bounces), gradient = step(throw, start, target, 1.0, 0.002)
        throw = throw - 0.02 * gradient.clamp(-10, 10)
        print(f"throw {turn}: squared miss {float(value):.4f} after {bounces} bounces")


if __name__ == "__main__":
    main()
