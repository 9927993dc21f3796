"""Programs with every kind of control flow, from a vector of 3 to a number, for the table of derivatives."""

import torch


def polynomial(x):
    return (x**3).sum() + x[0] * x[1] * x[2]


def value_loop(x):
    """A loop whose length depends on the values."""
    total = x.sum() * 0
    while float(total) < 5:
        total = total + (x * x).sum() + 0.5
        x = x * 1.1
    return total


def branches(x):
    for turn in range(4):
        x = torch.sin(x) if float(x[turn % 3]) > 0 else x.exp() - 1
    return (x * x).sum()


def recursion(x):
    def power(base, n):
        if n == 0:
            return torch.ones_like(base)
        half = power(base, n // 2)
        return half * half * (base if n % 2 else 1)

    return power(x, 5).sum()


def exceptions(x):
    for turn in range(5):
        try:
            if turn % 2:
                raise ValueError
            x = torch.tanh(x * 1.5)
        except ValueError:
            x = x * x + x
    return x.prod() + x.sum()


def generators(x):
    def powers(one):
        power = one
        while True:
            yield power
            power = power * one

    made = powers(x)
    return sum((next(made) / (n + 1) for n in range(4)), torch.zeros_like(x)).sum()


def higher_order(x):
    def compose(*functions):
        def composed(one):
            for function in functions:
                one = function(one)
            return one

        return composed

    return compose(torch.sin, lambda one: one * x, torch.exp)(x).sum()


def in_place(x):
    y = x.clone()
    y[0] = y[1].clone() * y[2].clone()
    y.mul_(x)
    y.add_(x, alpha=0.5)
    return (y * y).sum()


def views(x):
    table = torch.outer(x, x)
    diagonal = table.diagonal()
    upper = table[:2].t().reshape(-1)
    a, b, c = table.unbind()
    return (diagonal**2).sum() + upper.sin().sum() + (a * b * c).sum()


def buffer(x):
    """Writes into views of a tensor that begins as a constant."""
    table = torch.zeros(3, 3, dtype=x.dtype)
    for row in range(3):
        table[row] = x * (row + 1)
        table[row, row].mul_(2)
    return (table @ x).sin().sum()


def newton(x):
    """A fixed point by iteration: the square root of each element."""
    root = x * x + 1
    target = x * x + 2
    for _ in range(6):
        root = (root + target / root) / 2
    return root.sum()


def linear_algebra(x):
    matrix = torch.outer(x, x) + 3 * torch.eye(3, dtype=x.dtype)
    return torch.linalg.solve(matrix, x).sum() + torch.logdet(matrix)


PROGRAMS = {
    function.__name__: function
    for function in (
        polynomial, value_loop, branches, recursion, exceptions, generators, higher_order, in_place, views, buffer,
        newton, linear_algebra,
    )
}  # fmt: skip


def point():
    return torch.tensor([0.6, -0.4, 0.9], dtype=torch.float64)


def direction(number):
    noise = torch.Generator().manual_seed(100 + number)
    return torch.randn(3, generator=noise, dtype=torch.float64)
