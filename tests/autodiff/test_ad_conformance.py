"""Every mode inside every mode, to depth 3, plain and checkpointed, on programs with control flow.

The oracle is finite differences of the program itself: central ones with Richardson extrapolation, in directions.
"""

import itertools

import pytest
import torch
from ad_programs import PROGRAMS, direction, point

from thrifty.autodiff import grad, hessian, jacfwd, jacrev, jvp, vjp

# plain autograd, the oracle, warns when a program reads a value
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
MEMORIES = [None, 2, "log", "1MiB"]


def directional(f, v, mode, memory):
    """x -> derivative of f along v, by one of the modes."""
    if mode == "jvp":
        return lambda x: jvp(f, (x,), (v,))[1]
    if mode == "grad":
        return lambda x: (grad(f, memory=memory)(x) * v).sum()

    def by_vjp(x):
        output, pullback = vjp(f, x, memory=memory)
        return (pullback(torch.ones_like(output))[0] * v).sum()

    return by_vjp


def differences(f, v, h):
    """x -> the same by central differences: error O(h^4)."""

    def central(x, step):
        return (f(x + step * v) - f(x - step * v)) / (2 * step)

    return lambda x: (4 * central(x, h) - central(x, 2 * h)) / 3


@pytest.fixture(scope="module")
def expected():
    """Directional derivatives of order 1 to 3 of every program, by differences of torch's own first derivative."""
    found = {}
    for name, f in PROGRAMS.items():
        x, vs = point(), [direction(n) for n in range(3)]

        def first(x, f=f, v=vs[0]):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(f(leaf), leaf)
            return (gradient * v).sum()

        assert torch.isclose(first(x), differences(lambda x, f=f: f(x), vs[0], 1e-3)(x), rtol=1e-7)
        second = differences(first, vs[1], 1e-3)
        third = differences(differences(first, vs[1], 1e-2), vs[2], 1e-2)
        found[name] = (first(x), second(x), third(x))
    return found


@pytest.mark.parametrize("memory", MEMORIES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_depth_two(name, memory, expected):
    f, x = PROGRAMS[name], point()
    first, second, _ = expected[name]
    for inner in ("jvp", "grad", "vjp"):
        once = directional(f, direction(0), inner, memory)
        assert torch.isclose(once(x), first, rtol=1e-9)
        for outer in ("jvp", "grad", "vjp"):
            if (name, memory, inner) == ("linear_algebra", None, "jvp") and outer != "jvp":
                continue  # torch.func itself is wrong there, in torch 2.13: see the method card
            twice = directional(once, direction(1), outer, memory)
            assert torch.isclose(twice(x), second, rtol=1e-6, atol=1e-7), (inner, outer)


@pytest.mark.parametrize("memory", [None, 2], ids=str)
@pytest.mark.parametrize("name", ["value_loop", "branches", "in_place", "views", "buffer", "exceptions"])
def test_depth_three(name, memory, expected):
    f, x = PROGRAMS[name], point()
    for modes in itertools.product(("jvp", "grad"), repeat=3):
        nested = f
        for number, mode in enumerate(modes):
            nested = directional(nested, direction(number), mode, memory)
        assert torch.isclose(nested(x), expected[name][2], rtol=1e-4, atol=1e-4), modes


@pytest.mark.parametrize("pair", [(None, 2), (2, None), ("log", 1)], ids=str)
@pytest.mark.parametrize("name", ["branches", "buffer", "linear_algebra"])
def test_plain_and_checkpointed_levels_mix(name, pair, expected):
    nested = directional(PROGRAMS[name], direction(0), "grad", pair[0])
    nested = directional(nested, direction(1), "grad", pair[1])
    assert torch.isclose(nested(point()), expected[name][1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("memory", [1, 3, "log", "1MiB"], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_bits_as_plain_autograd(name, memory):
    f = PROGRAMS[name]
    leaf = point().requires_grad_()
    (plain,) = torch.autograd.grad(f(leaf), leaf)
    assert torch.equal(grad(f, memory=memory)(point()), plain)
    assert torch.allclose(grad(f)(point()), plain, rtol=1e-14)


@pytest.mark.parametrize("memory", [None, 2], ids=str)
def test_matrices(memory):
    def field(x):
        return torch.stack([x[0] * x[1], x[1].sin(), x.prod(), x.sum()])

    x = point()
    expected = torch.func.jacrev(field)(x)
    assert torch.allclose(jacfwd(field)(x), expected)
    assert torch.allclose(jacrev(field, memory=memory)(x), expected)
    f = PROGRAMS["polynomial"]
    assert torch.allclose(hessian(f, memory=memory)(x), torch.func.hessian(f)(x))
