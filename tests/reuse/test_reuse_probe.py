"""The probe: what it decides from what was measured, and that its decisions travel."""

import pytest
import torch
from torch import nn

import thrifty
from thrifty._load_native import native
from thrifty.core.errors import CheckpointError
from thrifty.ops._stages import Route
from thrifty.reuse import Reuse, Stage
from thrifty.reuse.probe import CAUTION, IDLE_STEPS, PLAN, REST_STEPS, WARM_UP, WATCHED, Probe
from thrifty.reuse.state import LIMITS, ReuseState


def state(stages=()):
    return ReuseState("layer", 0, stages, skip_zeros=True)


def measure(probe, dense_s, skip_s, share=0.2):
    """Give a probe the same seconds, forward and backward, at every step of its plan."""
    told = []
    for kind in PLAN:
        skipped = kind == "skip"
        assert probe.state.probing and probe.state.stage is None
        assert all((limit > 1) == skipped for limit in probe.state.limits)
        route = Route(share, skipped, skip_s if skipped else dense_s)
        probe.state.seconds.routes = {"forward": route, "backward": route}
        told += probe.end_step()
    return told


@pytest.mark.parametrize(("dense_s", "skip_s"), [(0.01, 0.002), (0.001, 0.004)])
def test_the_limit_is_the_share_at_which_both_take_equally_long(dense_s, skip_s):
    probe = Probe(state())
    told = measure(probe, dense_s, skip_s)
    assert probe.state.limits == pytest.approx([CAUTION * 0.2 * dense_s / skip_s] * 2)
    assert (probe.state.limits[0] >= 0.2) == (skip_s < dense_s)
    assert not probe.state.probing and [what.split(":")[0] for what, _ in told] == ["forward", "backward"]


def test_the_first_of_each_kind_only_warms_up():
    probe = Probe(state())
    for at, kind in enumerate(PLAN):
        slow = 100.0 if kind not in PLAN[:at] else 1.0
        probe.state.seconds.routes = {"backward": Route(0.5, kind == "skip", slow * (0.5 if kind == "skip" else 1.0))}
        probe.end_step()
    assert probe.state.limits == pytest.approx([LIMITS[0], CAUTION * 0.5 * 2])


def test_a_layer_that_cannot_choose_keeps_the_fixed_shares():
    probe = Probe(state())
    assert probe.end_step() == []
    assert not probe.state.probing and probe.state.limits == list(LIMITS)


@pytest.mark.parametrize(("clusters_s", "pays"), [(0.003, True), (0.005, False)])
def test_clusters_that_take_longer_than_exact_products_are_left(clusters_s, pays):
    probe = Probe(state((Stage(4, 3),)))
    measure(probe, 0.01, 0.002)
    told = []
    for step in range(WARM_UP + WATCHED + 3):
        if probe.state.stage is None:
            break
        probe.state.seconds.add("hash", 1.0 if step < WARM_UP else clusters_s)
        told += probe.end_step()
    assert probe.state.clusters_pay == pays and (probe.state.stage is not None) == pays
    assert [what for what, _ in told] == ([] if pays else ["exact products for good"])


def idle(probe, steps, skipped=False):
    for _ in range(steps):
        probe.state.seconds.routes = {} if probe.state.resting else {"backward": Route(1.0, skipped, 0.01)}
        probe.end_step()


def test_a_layer_with_nothing_to_skip_rests_and_looks_again():
    probe, other = Probe(state()), Probe(state())
    measure(probe, 0.01, 0.02)
    idle(probe, IDLE_STEPS - 1)
    idle(probe, 1, skipped=True)
    idle(probe, IDLE_STEPS - 1)
    assert not probe.state.resting
    idle(probe, 1)
    assert probe.state.resting == REST_STEPS
    idle(probe, 10)
    other.load_state_dict(probe.state_dict())
    assert other.state.resting == REST_STEPS - 10
    idle(other, REST_STEPS - 10)
    assert not other.state.resting
    idle(other, IDLE_STEPS)
    assert other.state.resting == REST_STEPS


@pytest.mark.skipif(native is None, reason="nothing is skipped without native kernels")
def test_convolutions_in_front_of_batch_norm_run_as_stock_before_long():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    applied = thrifty.apply_(model, [Reuse()])
    steps(model, applied, len(PLAN))
    model[0].reuse.limits[:] = [0.0, 0.0]  # whatever was measured on so small a layer
    steps(model, applied, IDLE_STEPS)
    assert model[0].reuse.resting == REST_STEPS
    assert type(model[0](torch.randn(2, 3, 8, 8)).grad_fn).__name__ == "ConvolutionBackward0"
    before = applied.counters()["0"]
    steps(model, applied, 1)
    after = applied.counters()["0"]
    assert after.macs - before.macs == after.dense_macs - before.dense_macs > 0


def test_decisions_travel_and_damaged_ones_are_refused():
    probe, other = Probe(state()), Probe(state())
    measure(probe, 0.01, 0.002)
    other.load_state_dict(probe.state_dict())
    assert other.state.limits == probe.state.limits and not other.state.probing
    for damage in ({"at": 99}, {"limits": [0.1]}, {"samples": 3}):
        with pytest.raises(CheckpointError):
            other.load_state_dict({**probe.state_dict(), **damage})
    with pytest.raises(CheckpointError, match="damaged"):
        other.load_state_dict({})


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )


def steps(model, applied, count):
    for step in range(count):
        torch.manual_seed(step)
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        model.zero_grad()
        loss.backward()
        applied.step(loss)


@pytest.mark.skipif(native is None, reason="nothing to choose from without native kernels")
def test_a_training_measures_once_and_a_resumed_one_not_again():
    model = network()
    applied = thrifty.apply_(model, [Reuse()])
    steps(model, applied, len(PLAN) + 2)
    assert {(event.step, event.layer) for event in applied.events} == {(len(PLAN), "0"), (len(PLAN), "2")}
    assert all(event.reason == "measured" for event in applied.events)
    again = network()
    resumed = thrifty.apply_(again, [Reuse()])
    resumed.load_state_dict(applied.state_dict())
    assert again[0].reuse.limits == model[0].reuse.limits
    steps(again, resumed, 3)
    assert resumed.events == applied.events


@pytest.mark.skipif(native is None, reason="nothing to choose from without native kernels")
def test_without_measuring_two_trainings_are_equal_bit_for_bit():
    weights = []
    for _ in range(2):
        model = network()
        steps(model, thrifty.apply_(model, [Reuse(measure=False)]), 5)
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
