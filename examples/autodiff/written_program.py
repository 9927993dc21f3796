"""A program that writes a program: the gradient through a small interpreter that runs generated code.

A generator turns a parameter vector into code for a machine with a few registers: which operations there are, and in
which order, is decided by comparing numbers; the constants in them stay differentiable. The interpreter runs the code
in a loop until a register says stop. Reverse mode sees one long program of tensors, whatever code was written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import thrifty


class Instruction(NamedTuple):
    """An operation on registers, and its constant, a scalar tensor."""

    name: str
    to: int
    other: int
    constant: Tensor


def write(parameters: Tensor) -> list[Instruction]:
    """Parameters (n, 3) -> n instructions: the first two columns choose, the third is the constant."""
    code = []
    for at, row in enumerate(parameters):
        first, second = float(row[0]), float(row[1])
        name = "rotate" if first > 0.5 else "mix" if first > 0 else "bend" if second > 0 else "shift"
        code.append(Instruction(name, at % 3, (at + 1 + (second > 0)) % 3, row[2]))
    return code


def interpret(code: list[Instruction], x: Tensor, most_turns: int) -> Tensor:
    """Run the code in a loop on three registers (n,), the first of which is x, until its energy is small."""
    registers = [x, torch.cos(x), torch.zeros_like(x)]
    for _ in range(most_turns):
        for name, to, other, constant in code:
            a, b = registers[to], registers[other]
            if name == "rotate":
                registers[to] = torch.cos(constant) * a - torch.sin(constant) * b
            elif name == "mix":
                registers[to] = a + 0.1 * constant * (b - a)
            elif name == "bend":
                registers[to] = torch.tanh(a * (1 + 0.1 * constant))
            else:
                registers[to] = a.roll(1) + 0.01 * constant
        if float(registers[0].square().mean()) < 1e-4:
            break
    return registers[0]


def loss(parameters: Tensor, x: Tensor, target: Tensor, most_turns: int) -> Tensor:
    """How far the written program's result is from the target."""
    return (interpret(write(parameters), x, most_turns) - target).square().mean()


def main(turns: int = 5) -> None:
    """Improve the constants of a program as it is written anew at each step."""
    torch.manual_seed(0)
    parameters, x = torch.randn(8, 3), torch.randn(64)
    target = 0.5 * torch.ones(64)
    step = thrifty.value_and_grad(loss, memory="log")
    for turn in range(turns):
        value, gradient = step(parameters, x, target, 40)
        parameters = parameters - 0.1 * gradient
        names = " ".join(one.name for one in write(parameters))
        print(f"program {turn}: loss {float(value):.4f}  {names}")


if __name__ == "__main__":
    main()
