"""The controller: coarse to fine to exact, by plateau or by deadline, the same way every time."""

import io
import math

import pytest
import torch
from torch import nn

import thrifty
from thrifty.core.errors import CheckpointError, NonFiniteError
from thrifty.reuse import Reuse, Stage
from thrifty.reuse.controller import Plateau
from thrifty.reuse.state import ReuseState

STAGES = (Stage(8, 4), Stage(4, 6, 1))


def controlled(**settings):
    config = Reuse(**{"stages": STAGES, "patience": 5, "smoothing_steps": 2, **settings})
    states = [ReuseState(name, 0, config.stages) for name in ("a", "b")]
    return Plateau(config, states), states


def moves(controller, losses, first=1):
    return [event for step, loss in enumerate(losses, first) for event in controller.step(step, loss)]


def falling(count, factor=0.9):
    return [factor**i for i in range(count)]


def test_all_layers_begin_at_the_coarsest_stage():
    _, states = controlled()
    assert [state.stage for state in states] == [STAGES[0]] * 2


def test_it_stays_while_the_loss_falls():
    controller, _ = controlled()
    assert moves(controller, falling(200)) == []


def test_it_moves_on_when_the_loss_stops_falling_and_ends_exact():
    controller, states = controlled()
    events = moves(controller, falling(20) + [0.13] * 60)
    assert [event.what for event in events] == ["stage 0 -> 1 (L=4, H=6, scope=1)", "stage 1 -> exact"]
    assert all(event.reason == "smoothed loss stopped falling for 5 steps" for event in events)
    assert events[0].step > 20 and events[1].step == events[0].step + 6  # the first step of a stage sets its mark
    assert [state.stage for state in states] == [None, None]
    assert moves(controller, [0.13] * 50, first=81) == []


def test_layers_move_together_and_the_event_says_so():
    controller, states = controlled()
    (event,) = moves(controller, [1.0] * 6)
    assert event.layer is None
    assert [state.stage_index for state in states] == [1, 1]


def test_a_scope_of_zero_is_called_the_batch():
    controller, _ = controlled(stages=(Stage(8, 4), Stage(4, 6)))
    assert moves(controller, [1.0] * 6)[0].what == "stage 0 -> 1 (L=4, H=6, scope=batch)"


def test_a_fall_that_is_too_small_is_none():
    slow = falling(100, 0.999)  # half a percent in 5 steps
    assert moves(controlled(min_decrease=0.01)[0], slow)
    assert not moves(controlled(min_decrease=0.001)[0], slow)


def test_a_single_low_loss_is_smoothed_away():
    noisy = [1.0, 1.0, 0.5, *[1.0] * 20]
    assert moves(controlled(smoothing_steps=50, min_decrease=0.02)[0], noisy)[0].step <= 9


@pytest.mark.parametrize("level", [-1.0, -1e6, 0.0, 1e-8])
def test_losses_of_any_sign_can_stop_falling(level):
    assert len(moves(controlled()[0], [level] * 30)) == 2


def test_negative_losses_can_fall():
    assert moves(controlled()[0], [-(1.1**i) for i in range(100)]) == []


def test_deadlines_share_the_training_out():
    controller, _ = controlled(patience=10**6, total_steps=100, dense_share=0.4)
    events = moves(controller, falling(100))
    assert [event.step for event in events] == [30, 60]
    assert [event.reason for event in events] == ["30% of 100 steps are done", "60% of 100 steps are done"]


@pytest.mark.parametrize("share, steps", [(0.0, [50, 100]), (1.0, [1, 2]), (0.5, [25, 50])])
def test_the_dense_share_is_kept(share, steps):
    controller, _ = controlled(patience=10**6, total_steps=100, dense_share=share)
    assert [event.step for event in moves(controller, falling(100))] == steps


def test_a_plateau_comes_before_the_deadline():
    controller, _ = controlled(total_steps=1000)
    assert [event.step for event in moves(controller, [1.0] * 100)] == [6, 12]


def test_fixed_never_moves():
    controller, states = controlled(fixed=True, total_steps=10)
    assert moves(controller, [1.0] * 100) == []
    assert states[0].stage == STAGES[0]


def test_one_step_makes_one_move_at_most():
    controller, _ = controlled(total_steps=2, dense_share=1.0, patience=1)
    assert len(controller.step(1, 1.0)) == 1 and len(controller.step(2, 1.0)) == 1


def some_losses(count=300, seed=0):
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [math.exp(-i / 40) + 0.3 + 0.05 * float(noise[i]) for i in range(count)]


def test_the_same_losses_give_the_same_moves():
    losses = some_losses()
    first, second = (moves(controlled()[0], losses) for _ in range(2))
    assert first == second and len(first) == 2


@pytest.mark.parametrize("cut", [1, 7, 40, 41, 60, 90, 200])
def test_a_resumed_controller_goes_on_as_an_unbroken_one(cut):
    losses = some_losses()
    unbroken = moves(controlled()[0], losses)
    first, _ = controlled()
    before = moves(first, losses[:cut])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second, states = controlled()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert states[0].stage_index == first.stage  # the layers follow at once
    assert before + moves(second, losses[cut:], first=cut + 1) == unbroken
    assert second.state_dict() == second.state_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"stage": 0},
        {"stage": 3, "smoothed": None, "best": None, "best_step": 0},
        {"stage": -1, "smoothed": None, "best": None, "best_step": 0},
        {"stage": "0", "smoothed": None, "best": None, "best_step": 0},
        {"stage": None, "smoothed": None, "best": None, "best_step": 0},
        {"stage": 1, "smoothed": None, "best": None, "best_step": 0, "more": 1},
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(wrong):
    controller, states = controlled()
    moves(controller, [1.0] * 8)
    before = controller.state_dict()
    with pytest.raises(CheckpointError, match="does not fit its settings"):
        controller.load_state_dict(wrong)
    assert controller.state_dict() == before and states[0].stage_index == 1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3))


def train(model, applied, steps, first=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for step in range(first, first + steps):
        x = torch.randn(4, 16, 6, 6, generator=torch.Generator().manual_seed(step))
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        applied.step(loss)
        losses.append(loss.item())
    return losses


def applied_to(model, **settings):
    return thrifty.apply_(
        model, [Reuse(**{"stages": STAGES, "pieces": "pixels", "total_steps": 20, "measure": False, **settings})]
    )


def test_every_move_is_recorded_in_the_handle():
    model = network()
    applied = applied_to(model)
    train(model, applied, 20)
    assert [(event.step, event.what) for event in applied.events] == [
        (6, "stage 0 -> 1 (L=4, H=6, scope=1)"),
        (12, "stage 1 -> exact"),
    ]
    assert {row["stage"] for row in applied.trace()} == {0, 1}
    assert model[0].reuse.stage is None and model[2].reuse.stage is None


@pytest.mark.parametrize("cut", [3, 6, 9, 15])
def test_training_resumed_in_the_middle_is_the_unbroken_training(cut):
    unbroken = network()
    handle = applied_to(unbroken)
    losses = train(unbroken, handle, 20)

    first = network()
    before = applied_to(first)
    start = train(first, before, cut)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "methods": before.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = network()
    after = applied_to(second)
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["methods"])
    assert start + train(second, after, 20 - cut, first=cut) == losses
    assert after.events == handle.events and after.steps == 20
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), unbroken.parameters(), strict=True))
    assert after.trace() == handle.trace()


def test_a_state_of_other_settings_is_refused():
    model = network()
    applied = applied_to(model)
    state = applied.state_dict()
    train(model, applied, 7)
    other = applied_to(network(), patience=7)
    with pytest.raises(CheckpointError, match="apply the same methods first"):
        other.load_state_dict(state)
    damaged = {**state, "controllers": {"reuse": {**state["controllers"]["reuse"], "stage": 9}}}
    with pytest.raises(CheckpointError, match="does not fit its settings"):
        applied.load_state_dict(damaged)
    assert model[0].reuse.stage_index == 1 and applied.steps == 7


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_a_loss_that_is_not_finite_moves_nothing(loss):
    model = network()
    applied = applied_to(model)
    with pytest.raises(NonFiniteError):
        applied.step(loss)
    assert applied.steps == 0 and applied.events == []
