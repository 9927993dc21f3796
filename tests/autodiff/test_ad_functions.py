"""`torch.autograd.Function`s: their own backward counts, under `memory=` and inside `checkpointing`."""

import pytest
import torch

import thrifty
from thrifty.autodiff import ReplayError


class Round(torch.autograd.Function):
    """Straight through: the derivative of rounding counts as one."""

    @staticmethod
    def forward(ctx, x, scale):
        return torch.round(x * scale) / scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + torch.randn(3)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(-1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ByNumPy(torch.autograd.Function):
    """A product that compiled code writes into fresh memory."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        out = torch.empty(x.shape[0], w.shape[1])
        out.numpy()[:] = x.detach().numpy() @ w.detach().numpy()
        return out

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return gradient @ w.T, x.T @ gradient


def rounded(x):
    for turn in range(12):
        x = torch.sin(Round.apply(x, 8.0 + turn) + x * x)
    return x.sum()


def plain(f, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


@pytest.mark.parametrize("memory", [1, 3, "log", "1MiB"], ids=str)
def test_the_backward_of_a_function_is_kept_under_memory(memory):
    x = torch.randn(5)
    assert torch.equal(thrifty.grad(rounded, memory=memory)(x), plain(rounded, x))
    assert "apply" in torch.autograd.Function.__dict__
    assert torch.autograd.Function.apply.__func__.__module__.startswith("torch")


def test_what_code_outside_of_torch_computes_is_replayed_by_the_function():
    w = torch.randn(4, 4)

    def f(x):
        for _ in range(6):
            x = torch.tanh(ByNumPy.apply(x, w))
        return x.sum()

    x = torch.randn(3, 4)
    assert torch.equal(thrifty.grad(f, memory=2)(x), plain(f, x))


@pytest.mark.parametrize("function", [Noisy, Same], ids=["random", "a view"])
def test_a_function_that_cannot_be_replayed_is_refused_with_its_line(function):
    with pytest.raises(ReplayError, match=rf"{function.__name__}.*test_ad_functions\.py:\d+"):
        thrifty.grad(lambda x: function.apply(x).sum(), memory=2)(torch.ones(3))


def test_two_levels_and_forward_mode_are_refused_with_the_fix():
    x = torch.ones(3)
    with pytest.raises(ReplayError, match="custom_op"):
        thrifty.jvp(rounded, (x,), (x,))
    with pytest.raises(ReplayError, match="custom_op"):
        thrifty.grad(lambda x: thrifty.grad(rounded, memory=2)(x).sum(), memory=2)(x)
    assert torch._C._len_torch_dispatch_stack() == 0


def test_memory_filled_outside_of_torch_is_refused_or_kept():
    def f(x):
        hole = torch.empty(3)
        hole.numpy()[:] = 2
        return (x.sin() * hole).sum()

    x = torch.randn(3)
    with pytest.raises(ReplayError, match=r"custom_op"):
        thrifty.grad(f, memory=2)(x)
    leaf = x.clone().requires_grad_()
    with thrifty.checkpointing(1):
        (found,) = torch.autograd.grad(f(leaf), leaf)
    assert torch.equal(found, 2 * x.cos())


def test_functions_inside_checkpointing():
    w = torch.randn(6, 6, requires_grad=True)

    def f():
        x = torch.ones(4, 6)
        for _ in range(8):
            x = torch.tanh(ByNumPy.apply(Round.apply(x, 4.0), w)) + x
        return x.square().mean()

    (expected,) = torch.autograd.grad(f(), w)
    for _ in range(4):
        with thrifty.checkpointing(2) as used:
            (found,) = torch.autograd.grad(f(), w)
        assert torch.equal(found, expected)
    assert used.recomputed_ops > 0


def test_an_operator_of_ones_own_needs_a_derivative():
    def double(x):
        with torch._C._AutoDispatchBelowAutograd():  # as compiled code does
            return 2 * x

    library = torch.library.Library("thrifty_tests", "DEF")
    for name in ("stopped", "twice"):
        library.define(f"{name}(Tensor x) -> Tensor")
        library.impl(name, double, "CPU")
    library.impl("stopped", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_autograd("thrifty_tests::twice", lambda ctx, gradient: 2 * gradient, lib=library)
    x = torch.ones(3)
    with pytest.raises(ReplayError, match=r"stopped.*test_ad_functions\.py:\d+.*register_autograd"):
        thrifty.grad(lambda x: torch.ops.thrifty_tests.stopped(x.sin()).sum(), memory=1)(x)
    for memory in (1, "log"):
        found = thrifty.grad(lambda x: torch.ops.thrifty_tests.twice(x.sin()).sum(), memory=memory)(x)
        assert torch.equal(found, 2 * x.cos())
