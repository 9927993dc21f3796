"""Nested programs of the literature, against closed forms."""

import math

import pytest
import torch

import thrifty

D = torch.float64


def number(value):
    return torch.tensor(value, dtype=D)


@pytest.mark.parametrize("memory", [None, 2, "log"], ids=str)
def test_square_root_by_newton_on_a_derivative(memory):
    """nr-sqrt: the derivative of a root that Newton's method finds, itself by a derivative."""

    def root(target):
        x = number(1.0)
        while abs(float(x * x - target)) > 1e-12:
            slope = thrifty.grad(lambda y: y * y - target, memory=memory)(x)
            x = x - (x * x - target) / slope
        return x

    assert torch.isclose(thrifty.grad(root, memory=memory)(number(2.0)), number(0.5 / math.sqrt(2)), rtol=1e-9)
    assert torch.isclose(thrifty.derivative(root)(number(2.0)), number(0.5 / math.sqrt(2)), rtol=1e-9)


@pytest.mark.parametrize("mode", ["grad", "derivative"])
def test_saddle_point(mode):
    """min over x of max over y of x^2 + y^2 - 2 y^2: descent whose objective is the result of an ascent."""

    def slope(f):
        return thrifty.grad(f, memory=3) if mode == "grad" else thrifty.derivative(f)

    def best_answer(x):
        y = number(1.0)
        for _ in range(30):
            y = y + 0.2 * slope(lambda y: x * x - y * y + x * y)(y)
        return y

    def outcome(x):
        y = best_answer(x)
        return x * x - y * y + x * y

    x = number(1.0)
    for _ in range(12):
        x = x - 0.3 * slope(outcome)(x)
    assert abs(float(x)) < 1e-3


def test_high_order_derivatives():
    """DiffSharp's: the sixth derivative of tanh."""
    x = number(0.3)
    t = math.tanh(0.3)
    # d6/dx6 tanh = 16 t (1 - t^2) (45 t^4 - 60 t^2 + 17) with sign, from the tanh polynomials
    polynomial = [0.0, 1.0]
    for _ in range(6):
        slope = [i * c for i, c in enumerate(polynomial)][1:] or [0.0]
        # chain rule: times (1 - t^2)
        polynomial = [0.0] * (len(slope) + 2)
        for i, c in enumerate(slope):
            polynomial[i] += c
            polynomial[i + 2] -= c
    exact = sum(c * t**i for i, c in enumerate(polynomial))
    assert torch.isclose(thrifty.derivative(torch.tanh, 6)(x), number(exact), rtol=1e-10)


def falling(dt):
    """A particle falls past two charges: the square of its landing point, by one charge's height."""

    def landing(w):
        charges = [torch.stack([number(10.0), number(10.0) - w]), torch.tensor([10.0, 0.0], dtype=D)]
        position = torch.tensor([0.0, 8.0], dtype=D)
        velocity = torch.tensor([0.75, 0.0], dtype=D)

        def potential(p):
            return sum(1 / (p - charge).square().sum().sqrt() for charge in charges)

        while True:
            acceleration = -thrifty.grad(potential)(position)
            new = position + dt * velocity
            if float(new[1]) <= 0:
                break
            position = new
            velocity = velocity + dt * acceleration
        last = (0 - position[1]) / velocity[1]
        final = position + last * velocity
        return final[0] ** 2

    return landing


def landing_point(w, dt):
    """The same in plain numbers, with the force of a charge written out."""
    x, y, u, v = 0.0, 8.0, 0.75, 0.0
    while True:
        pairs = [(x - 10.0, y - (10.0 - w)), (x - 10.0, y)]
        forces = [(a / math.hypot(a, b) ** 3, b / math.hypot(a, b) ** 3) for a, b in pairs]
        if y + dt * v <= 0:
            return x - y / v * u
        x, y = x + dt * u, y + dt * v
        u, v = u + dt * (forces[0][0] + forces[1][0]), v + dt * (forces[0][1] + forces[1][1])


def test_charged_particle_newton():
    """One step of Newton's method, on the second and third derivative of the fall, comes to the published place."""
    assert abs(float(falling(0.1)(number(-0.266))) - landing_point(-0.266, 0.1) ** 2) < 1e-12
    slope = thrifty.derivative(falling(0.1))
    w = number(-0.266)
    step, curvature = thrifty.jvp(slope, (w,), (number(1.0),))
    assert abs(float(w - step / curvature) + 0.266521) < 5e-5


def test_fields_by_closed_forms():
    x = torch.tensor([0.3, -0.7, 1.1], dtype=D)
    assert torch.isclose(thrifty.laplacian(lambda x: (x**4).sum(), memory=2)(x), (12 * x * x).sum())
    assert torch.isclose(thrifty.divergence(lambda x: x**3)(x), (3 * x * x).sum())
    found = thrifty.curl(lambda x: torch.stack([x[1] * x[2], x[0] ** 2, x[0] * x[1]]))(x)
    expected = torch.stack([x[0], x[1] - x[1], 2 * x[0] - x[2]])
    assert torch.allclose(found, expected)


def test_hypergradient_through_descent():
    """d/d(step size) of the loss after 200 steps on a quadratic, known in closed form."""

    def final(rate):
        x = number(1.0)
        for _ in range(200):
            x = x - rate * thrifty.grad(lambda y: 0.5 * y * y)(x)
        return 0.5 * x * x

    rate = number(0.01)
    exact = 0.5 * 400 * (1 - 0.01) ** 399 * -1
    assert torch.isclose(thrifty.grad(final, memory="log")(rate), number(exact), rtol=1e-9)
