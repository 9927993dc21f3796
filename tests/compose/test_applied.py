"""Applied: moves, counters, history, and a state that resumes."""

import copy
import io

import pytest
import torch

from thrifty.compose import apply_
from thrifty.core.errors import CheckpointError, NonFiniteError, UsageError

X = torch.zeros(2, 3, 6, 6)


def steps(net, applied, count):
    moves = []
    for _ in range(count):
        net(X)
        moves += applied.step(torch.tensor(2.0))
    return moves


def test_moves_are_returned_and_kept(net, counting):
    applied = apply_(net, [counting(move_every=2)])
    moves = steps(net, applied, 5)
    assert [(event.step, event.what, event.reason) for event in moves] == [
        (2, "stage 0 -> 1", "loss 2.0"),
        (4, "stage 1 -> 2", "loss 2.0"),
    ]
    assert applied.events == moves and applied.steps == 5
    assert net[0].stage == 2


def test_counters_are_snapshots(net, counting):
    applied = apply_(net, [counting()])
    steps(net, applied, 2)
    before = applied.counters(reset=True)
    steps(net, applied, 1)
    assert before["0"].macs == 20 and before["0"].stages_s == {"gemm": 0.5}
    assert before["0"].remaining_ratio == 0.5 and before["0"].error is None
    assert applied.counters()["0"].macs == 10


def test_trace_rows_name_step_and_layer_and_hold_the_stage_in_force(net, counting):
    applied = apply_(net, [counting(move_every=1)])
    steps(net, applied, 2)
    assert applied.trace(reset=True) == [
        {"step": step, "layer": layer, "stage": step - 1, "remaining_ratio": 0.5, "error": 0.0}
        for step in (1, 2)
        for layer in ("0", "4.1")
    ]
    assert applied.trace() == []


@pytest.mark.parametrize("loss", [1, 1.0, torch.tensor(1.0), torch.ones(1, 1, requires_grad=True)])
def test_losses_are_numbers_of_any_kind(loss, net, counting):
    assert len(apply_(net, [counting(move_every=1)]).step(loss)) == 1


@pytest.mark.parametrize("loss", [float("nan"), torch.tensor(float("inf"))])
def test_a_loss_that_is_not_finite_moves_nothing(loss, net, counting):
    applied = apply_(net, [counting(move_every=1)])
    with pytest.raises(NonFiniteError, match="the loss is"):
        applied.step(loss)
    assert applied.steps == 0 and applied.events == [] and net[0].stage == 0


def test_a_loss_per_sample_is_refused(net, counting):
    with pytest.raises(UsageError, match=r"shape \(2,\): reduce it"):
        apply_(net, [counting()]).step(torch.ones(2))


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_state_resumes(net, twin, counting):
    unbroken = apply_(net, [counting(move_every=3)])
    steps(net, unbroken, 4)
    state = through_a_file(unbroken.state_dict())
    resumed = apply_(twin, [counting(move_every=3)])
    resumed.load_state_dict(state)
    assert twin[0].stage == 1
    assert steps(twin, resumed, 4) == steps(net, unbroken, 4)
    assert resumed.events == unbroken.events
    assert resumed.counters() == unbroken.counters()
    assert resumed.trace() == unbroken.trace()
    assert str(resumed.state_dict()) == str(unbroken.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("methods"), "damaged"),
        (lambda state: state.update(format=99), "format 99"),
        (lambda state: state["methods"][0]["_data"].update(move_every=5), "apply the same methods"),
        (lambda state: state["counters"].update(other={}), "another model; layers in only one of the two: other"),
        (lambda state: state["counters"].update({"0": {"steps": 1}}), "damaged"),
        (lambda state: state.update(events=[{"when": 1}]), "damaged"),
        (lambda state: state.update(trace={}), "damaged"),
        (lambda state: state.update(controllers={}), "damaged"),
        (lambda state: state["controllers"].update(counting={}), "damaged"),
    ],
)
def test_a_damaged_or_foreign_state_changes_nothing(damage, message, net, counting):
    applied = apply_(net, [counting(move_every=2)])
    steps(net, applied, 3)
    before = copy.deepcopy(applied.state_dict())
    state = copy.deepcopy(before)
    state["steps"] = 77
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        applied.load_state_dict(state)
    assert str(applied.state_dict()) == str(before)
    assert net[0].stage == 1
