"""auto_: uses what the plan chose, compares it in training by the clock, and undoes what is slower."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from thrifty import auto_
from thrifty.compose.auto import DENSE_STEPS, SETTLING_STEPS, WATCH_EVERY, WINDOW, Auto
from thrifty.compose.planning import Option, Plan
from thrifty.core.errors import CheckpointError, UsageError

FIRST = DENSE_STEPS + SETTLING_STEPS + WINDOW


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def made(name, methods=(), amp="none"):
    """A plan that chose this."""
    options = (Option("dense", (), "none", 1.0, 1.0, 0, 0.0), Option(name, tuple(methods), amp, 0.5, 2.0, 0, 0.0))
    return Plan(options, (), name, 0.1, 0, 3)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def auto(net, counting, clock):
    return Auto(net, made("counting", [counting()]), None, clock)


def is_on(model):
    return type(model[0]) is not nn.Conv2d


def run(auto, steps, dense_s=1.0, ours_s=0.5):
    """Steps that take so long, dense or not; which of them ran dense."""
    dense = []
    for _ in range(steps):
        dense.append(not is_on(auto._model))
        auto._clock.now += dense_s if dense[-1] else ours_s
        auto.step(1.0)
    return dense


def test_the_first_steps_are_dense_and_then_the_methods_are_on(auto, net):
    assert not is_on(net)
    assert run(auto, FIRST) == [True] * DENSE_STEPS + [False] * (FIRST - DENSE_STEPS)
    assert not auto.undone
    assert "on, 42 steps" in repr(auto)
    assert auto.applied.steps == FIRST - DENSE_STEPS  # controllers see their own steps only


def test_what_is_slower_is_undone_after_the_first_window(auto, net):
    run(auto, FIRST - 1, ours_s=1.2)
    assert is_on(net)
    run(auto, 1, ours_s=1.2)
    assert auto.undone and auto.applied is None
    assert not is_on(net)
    (event,) = auto.events
    assert event.step == FIRST
    assert event.what == "counting is undone"
    assert event.reason == "a step takes 1200.0 ms, dense 1000.0 ms"
    assert run(auto, WATCH_EVERY) == [True] * WATCH_EVERY  # for good


def test_noise_of_a_few_slow_steps_undoes_nothing(auto):
    run(auto, FIRST - 10)
    run(auto, 5, ours_s=100.0)
    run(auto, 10)
    assert not auto.undone


def test_a_few_percent_are_let_pass(auto):
    run(auto, FIRST, ours_s=1.02)
    assert not auto.undone


def test_what_turns_out_slower_later_is_undone_then(auto, net):
    run(auto, WATCH_EVERY - 50)
    dense = run(auto, 50 + DENSE_STEPS, ours_s=1.5)
    assert dense == [False] * 50 + [True] * DENSE_STEPS
    assert auto.undone and not is_on(net)


def test_precision_follows_the_same_course(net, clock):
    auto = Auto(net, made("dense@bf16", amp="bf16"), None, clock)
    x = torch.randn(4, 4)

    def dtype():
        with auto.autocast():
            return functional.linear(x, x).dtype

    for step in range(FIRST):
        assert dtype() is (torch.float32 if step < DENSE_STEPS else torch.bfloat16)
        clock.now += 1.0 if step < DENSE_STEPS else 3.0
        auto.step(1.0)
    assert auto.undone
    assert dtype() is torch.float32


def test_where_dense_is_the_best_nothing_is_watched(net, twin, clock):
    auto = Auto(net, made("dense"), None, clock)
    assert run(auto, 60) == [True] * 60
    assert not auto.events and not auto.undone
    assert [type(a) for a in net.modules()] == [type(b) for b in twin.modules()]


def test_a_resumed_training_keeps_the_decisions(net, twin, counting, clock):
    found = made("counting", [counting(move_every=3)])
    first, second = Auto(net, found, None, clock), Auto(twin, found, None, Clock())
    run(first, DENSE_STEPS + 5)
    second.load_state_dict(first.state_dict())
    assert is_on(twin)
    assert second.applied.counters()["0"].steps == first.applied.counters()["0"].steps
    run(first, FIRST, ours_s=2.0)
    assert first.undone
    second.load_state_dict(first.state_dict())
    assert second.undone and not is_on(twin)


def test_damaged_and_foreign_states(auto, net, counting):
    state = auto.state_dict()
    with pytest.raises(CheckpointError, match=r"made with lsh, the plan of this run chose counting"):
        auto.load_state_dict({**state, "combination": "lsh"})
    with pytest.raises(CheckpointError, match="damaged"):
        auto.load_state_dict({key: value for key, value in state.items() if key != "undone"})
    assert run(auto, 1) == [True]


def test_it_plans_by_itself_with_an_optimizer_of_the_same_kind(counting):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    batch = torch.randn(4, 3, 6, 6), torch.randint(4, (4,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    auto = auto_(model, batch, optimizer=optimizer, methods=[counting()], budget_s=0.01)
    assert [option.name for option in auto.plan.options][:3] == ["dense", "counting", "dense@bf16"]
    for _ in range(DENSE_STEPS + 2):
        with auto.autocast():
            loss = functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        auto.step(loss)
    assert auto.steps == DENSE_STEPS + 2
    with pytest.raises(UsageError, match="needs a batch"):
        auto_(nn.Sequential(nn.Linear(1, 1)))
