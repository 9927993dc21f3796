"""Checkpointed reverse mode: counts, the record's size, exact replay, and what it refuses."""

import gc
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.autodiff import EscapedValueError, MemoryLimitError, ReplayError, explain
from thrifty.autodiff.levels import open_levels
from thrifty.autodiff.meter import LiveMeter
from thrifty.autodiff.revolve import forward_steps
from thrifty.core.errors import UsageError

D = torch.float64


def sines(n):
    def chain(x):
        for _ in range(n - 1):
            x = x.sin()
        return x.sum()

    return chain


def plain(f, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


@pytest.mark.parametrize("snapshots", [10, 22, 66])
def test_forward_steps_are_the_optimum_once_the_length_is_known(snapshots):
    x = torch.randn(16, dtype=D)
    gradient = thrifty.grad(sines(1024), memory=snapshots)
    expected = plain(sines(1024), x)
    for call in range(2):
        assert torch.equal(gradient(x), expected)
        account = gradient.account
        assert account.steps == 1024
        assert account.snapshots <= snapshots + call  # one more follows the run to its end
        if call:
            assert account.forward_steps == forward_steps(1024, snapshots)
        else:
            assert account.forward_steps <= 1.2 * forward_steps(1024, snapshots)


def test_live_tensors_stay_few():
    x = torch.randn(4096)
    peaks = {}
    for n in (1000, 4000):
        gradient = thrifty.grad(sines(n), memory=10)
        with LiveMeter(least_bytes=4096 * 4) as meter:
            gradient(x)
        peaks[n] = meter.peak_tensors
    assert peaks[1000] <= 10 + 8 and peaks[4000] <= 10 + 8


def test_the_record_of_a_loop_folds():
    gradient = thrifty.grad(sines(20_000), memory="log")
    gradient(torch.randn(2))
    assert gradient.account.record_bytes < 2 * gradient.account.operations


def test_numbers_that_change_are_replayed_as_they_were():
    def f(x):
        for turn in range(50):
            x = x * (1 + 0.01 * turn) + turn
            x = x / 1.5
        return (x * x).sum()

    x = torch.randn(3, dtype=D)
    assert torch.equal(thrifty.grad(f, memory=3)(x), plain(f, x))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_programs_made_by_chance_give_the_bits_of_autograd(data):
    """Straight lines and loops over a few tensors, views and in-place operations among them."""
    count = data.draw(st.integers(1, 12))
    kinds = [data.draw(st.integers(0, 8)) for _ in range(count)]
    places = [(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(count)]
    turns = data.draw(st.integers(1, 4))

    def f(x):
        values = [x * 1.5, x.sin(), x.clone()]
        for turn in range(turns):
            for kind, (to, other) in zip(kinds, places, strict=True):
                a, b = values[to], values[other]
                if kind == 0:
                    values[to] = a * b
                elif kind == 1:
                    values[to] = a.tanh() + turn
                elif kind == 2:
                    values[to] = a + b.flip(0)
                elif kind == 3:
                    values[to] = a.clone()
                    values[to].mul_(b.clone())
                elif kind == 4:
                    values[to] = a.clone()
                    values[to][1:].add_(b[:-1].clone())
                elif kind == 5:
                    values[to] = a.view(2, 3).t().reshape(6)
                elif kind == 6:
                    values[to] = torch.cat([b[3:], a[:3]])
                elif kind == 7:
                    values[to] = a.detach() * b
                else:
                    values[to] = torch.where(a > b, a, b * 0.5)
        return sum((value * value).sum() for value in values)

    x = torch.linspace(-1, 1, 6, dtype=D)
    expected = plain(f, x)
    for memory in (1, 3, "1MiB"):
        found = thrifty.grad(f, memory=memory)(x)
        assert torch.equal(found.isnan(), expected.isnan())  # large programs overflow
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.4)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        self.calls.append(1)
        x = self.body(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("memory", [1, 3, "log"], ids=str)
def test_modules_with_dropout_and_statistics_replay_exactly(memory):
    def make():
        torch.manual_seed(0)
        return Net().double()

    inputs, labels = torch.randn(5, 2, 6, 6, dtype=D), torch.tensor([0, 1, 2, 0, 1])

    def loss_of(model, parameters):
        outputs = torch.func.functional_call(model, parameters, (inputs,))
        return nn.functional.cross_entropy(outputs, labels)

    stock, ours = make(), make()
    torch.manual_seed(1)
    loss = nn.functional.cross_entropy(stock(inputs), labels)
    loss.backward()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    parameters = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    value, gradients = thrifty.value_and_grad(lambda p: loss_of(ours, p), memory=memory)(parameters)
    assert torch.equal(value, loss)
    assert torch.equal(torch.get_rng_state(), state), "drawn once, not once more for the replay"
    assert len(ours.calls) == 1
    for name, parameter in stock.named_parameters():
        assert torch.equal(gradients[name], parameter.grad), name
    for (name, one), other in zip(stock.named_buffers(), ours.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_explicit_generators_and_reseeding_replay_exactly():
    def f(x):
        noise = torch.Generator().manual_seed(3)
        for _ in range(6):
            x = x * torch.rand(4, generator=noise, dtype=D)
            torch.manual_seed(5)
            x = x.sin() + torch.rand(4, dtype=D) * x
            x = nn.functional.dropout(x, 0.3)
        return x.sum()

    x = torch.randn(4, dtype=D)
    expected = plain(f, x)
    for memory in (1, 3):
        assert torch.equal(thrifty.grad(f, memory=memory)(x), expected)


def test_python_runs_once():
    printed = []

    def f(x):
        for turn in range(20):
            x = x.sin()
            printed.append((turn, float(x[0])))
        return x.sum()

    thrifty.grad(f, memory=2)(torch.ones(2))
    assert len(printed) == 20


def test_vjp_may_be_called_again_and_sees_changes():
    x = torch.randn(3, dtype=D)
    f = sines(30)
    value, pullback = thrifty.vjp(f, x, memory=3)
    assert torch.equal(value, f(x))
    one = torch.ones((), dtype=D)
    first = pullback(one)[0]
    assert torch.equal(first, pullback(one)[0])
    assert torch.equal(first, plain(f, x))
    x.mul_(2)
    with pytest.raises(ReplayError, match="changed in place"):
        pullback(one)


def test_a_parameter_changed_between_run_and_reversal_is_refused_with_the_line():
    weight = torch.ones(3)
    _, pullback = thrifty.vjp(lambda x: (x * weight).sin().sum(), torch.ones(3), memory=1)
    weight.add_(1)
    with pytest.raises(ReplayError, match=r"test_ad_checkpointed\.py:\d+"):
        pullback(torch.ones(()))


@pytest.mark.parametrize("memory", [None, 2], ids=str)
def test_trees_argnums_and_aux(memory):
    def f(scale, tree, *, power):
        return (scale * tree["a"] ** power).sum() + tree["b"][0].sum(), {"seen": tree["b"][0] * 2, "word": "aux"}

    tree = {"a": torch.tensor([1.0, 2.0]), "b": [torch.ones(2)]}
    gradient, aux = thrifty.grad(f, argnums=(1, 0), has_aux=True, memory=memory)(torch.tensor(3.0), tree, power=2)
    assert torch.equal(gradient[0]["a"], torch.tensor([6.0, 12.0]))
    assert torch.equal(gradient[0]["b"][0], torch.ones(2))
    assert gradient[1] == 5
    assert (
        aux["word"] == "aux" and not aux["seen"].requires_grad and torch.equal(aux["seen"] + 0, torch.full((2,), 2.0))
    )


@pytest.mark.parametrize("memory", [None, 2], ids=str)
def test_a_closure_over_the_same_tensor_is_a_constant(memory):
    x = torch.tensor([2.0, 3.0])
    assert torch.equal(thrifty.grad(lambda y: (x * y).sum(), memory=memory)(x), x)
    assert torch.equal(thrifty.jvp(lambda y: x * y, (x,), (torch.ones(2),))[1], x)


@pytest.mark.parametrize("memory", [None, 1, "log"], ids=str)
def test_nested_perturbations_are_not_confused(memory):
    one = torch.ones((), dtype=D)

    def inner(x, g):
        return g(lambda y: x + y)

    by_grad = thrifty.grad(lambda x: x * inner(x, lambda f: thrifty.grad(f, memory=memory)(one)), memory=memory)
    by_jvp = thrifty.derivative(lambda x: x * inner(x, lambda f: thrifty.derivative(f)(one)))
    mixed = thrifty.derivative(lambda x: x * inner(x, lambda f: thrifty.grad(f, memory=memory)(one)))
    assert by_grad(one) == by_jvp(one) == mixed(one) == 1
    product = thrifty.grad(
        lambda x: x * thrifty.grad(lambda y: x * y, memory=memory)(torch.tensor(3.0, dtype=D)), memory=memory
    )
    assert product(torch.tensor(2.0, dtype=D)) == 4


@pytest.mark.parametrize("call", ["plain", "checkpointed", "forward"])
def test_a_value_that_escapes_is_an_error_when_used(call):
    kept = []

    def f(x):
        y = x * 2
        kept.append(y)
        kept.append(y.detach())
        return y.sum()

    x = torch.ones(2)
    {
        "plain": lambda: thrifty.grad(f)(x),
        "checkpointed": lambda: thrifty.grad(f, memory=2)(x),
        "forward": lambda: thrifty.jvp(f, (x,), (x,)),
    }[call]()
    with pytest.raises(EscapedValueError, match="has_aux"):
        kept[0] + 1
    assert torch.equal(kept[1].clone(), torch.full((2,), 2.0))


@pytest.mark.parametrize("memory", [None, 2], ids=str)
def test_bad_input(memory):
    grad = thrifty.grad
    x = torch.ones(2)
    with pytest.raises(UsageError, match="scalar"):
        grad(lambda x: x * 2, memory=memory)(x)
    with pytest.raises(UsageError, match="floating point"):
        grad(lambda x: x.sum(), memory=memory)(torch.ones(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="argnums"):
        grad(lambda x: x.sum(), argnums=1, memory=memory)(x)
    with pytest.raises(UsageError, match="float"):
        grad(lambda x: x, memory=memory)(2.0)
    with pytest.raises(UsageError, match="returned a function"):
        thrifty.vjp(lambda x: lambda y: x + y, x, memory=memory)
    with pytest.raises(UsageError, match="tangent"):
        thrifty.jvp(lambda x: x, (x,), (torch.ones(3),))


@pytest.mark.parametrize("memory", [0, -1, "12 parsecs", "MiB", 1.5, "0MiB", True])
def test_bad_memory(memory):
    with pytest.raises(UsageError, match="memory="):
        thrifty.grad(lambda x: x.sum(), memory=memory)


def test_a_limit_that_is_too_small_names_one_that_is_not():
    x = torch.randn(1000)
    f = sines(40)
    with pytest.raises(MemoryLimitError, match="too small") as caught:
        thrifty.grad(f, memory="5kB")(x)
    needed = caught.value.needed_bytes
    assert torch.equal(thrifty.grad(f, memory=f"{needed}B")(x), plain(f, x))


def test_a_limit_in_bytes_holds():
    x = torch.randn(100_000)
    f = sines(200)
    expected = plain(f, x)
    for limit in (6_000_000, 12_000_000, 30_000_000):
        with LiveMeter() as meter:
            assert torch.equal(thrifty.grad(f, memory=f"{limit}B")(x), expected)
        assert meter.peak_bytes <= 1.1 * limit


@pytest.mark.parametrize("memory", [None, 2], ids=str)
def test_an_exception_leaves_nothing_behind(memory):
    def f(x):
        y = x.sin()
        raise KeyError("mine")
        return y

    with pytest.raises(KeyError, match="mine"):
        thrifty.grad(f, memory=memory)(torch.ones(2))
    assert open_levels() == 0
    assert torch._C._len_torch_dispatch_stack() == 0
    assert torch.func.grad(lambda x: x.sum())(torch.ones(2)).sum() == 2


def test_refused_operations_are_named_with_their_line():
    def f(x):
        y = x * 2
        y.resize_(1)
        return y.sum()

    with pytest.raises(ReplayError, match=r"resize_.*test_ad_checkpointed\.py:\d+"):
        thrifty.grad(f, memory=2)(torch.ones(2))


def test_threads_do_not_meet():
    f = sines(60)
    inputs = [torch.randn(3, dtype=D) for _ in range(4)]
    found = {}

    def work(number):
        found[number] = thrifty.grad(f, memory=3)(inputs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, x in enumerate(inputs):
        assert torch.equal(found[number], plain(f, x))


def test_nothing_is_kept_alive_by_a_finished_call():
    gradient = thrifty.grad(sines(50), memory=5)
    x = torch.randn(1000)
    with LiveMeter() as meter:
        gradient(x)
        gc.collect()
        assert meter.tensors == 0


def test_explain_tells_and_draws(tmp_path):
    told = explain(sines(200), torch.randn(1000), memory=5)
    assert told.account.steps == 200
    assert told.peak_bytes < told.plain_peak_bytes
    assert "forward steps" in str(told)
    told.save(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").stat().st_size > 1000
    with pytest.raises(UsageError, match="None"):
        explain(sines(2), torch.ones(2), memory=None)
