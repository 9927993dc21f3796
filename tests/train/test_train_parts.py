"""The parts of the training loop one by one: arms, schedules, defaults, MACs, checkpoints, memory, summary."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thrifty import models
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.train import TrainConfig, checkpoint, defaults, memory, optimizers, schedule
from thrifty.train.arms import fit_arms, parse_arms, parse_settings
from thrifty.train.macs import count_macs
from thrifty.train.record import summarise
from thrifty.train.rhythm import Rhythm
from thrifty.train.tally import Tally


def test_arms_and_their_settings():
    config = TrainConfig(
        methods="reuse, reuse@bf16", settings=("reuse.patience=7", "reuse.fixed=true", "reuse.pieces=patches"), seed=4
    )
    dense, reuse, bf16 = parse_arms(config)
    assert (dense.name, dense.methods, dense.amp) == ("dense", (), "none")
    assert (reuse.name, reuse.amp, bf16.name, bf16.amp) == ("reuse", "none", "reuse@bf16", "bf16")
    (method,) = reuse.methods
    assert (method.patience, method.fixed, method.pieces, method.seed) == (7, True, "patches", 4)
    assert bf16.methods == reuse.methods
    assert parse_arms(TrainConfig(methods="reuse", amp="bf16"))[0].amp == "bf16"


def test_methods_learn_the_length_of_the_training_unless_they_were_told():
    (arm,) = fit_arms(parse_arms(TrainConfig(methods="reuse", baseline="none")), steps=50)
    assert arm.methods[0].total_steps == 50
    told = TrainConfig(methods="reuse", baseline="none", settings=("reuse.total_steps=9",))
    assert fit_arms(parse_arms(told), steps=50)[0].methods[0].total_steps == 9


def test_values_of_settings():
    words = ["m.a=1", "m.b=0.5", "m.c=text", "m.d=None", "m.e=[1, 2]", "n.f=a=b", "m.g="]
    assert parse_settings(words) == {
        "m": {"a": 1, "b": 0.5, "c": "text", "d": None, "e": [1, 2], "g": ""},
        "n": {"f": "a=b"},
    }


@pytest.mark.parametrize("word", ["", "a", "a=1", "a.=1", ".a=1", "a.b"])
def test_settings_of_another_form(word):
    with pytest.raises(UsageError, match=r"method\.key=value"):
        parse_settings([word])


def test_a_setting_given_twice():
    with pytest.raises(UsageError, match=r"reuse\.a is given twice"):
        parse_settings(["reuse.a=1", "reuse.a=2"])


def test_config_travels_as_plain_data():
    config = TrainConfig(settings=("reuse.patience=3",), learning_rate=0.1, out="x")
    assert TrainConfig.from_dict({**config.to_dict(), "source": "more than a config"}) == config


@given(name=st.sampled_from(schedule.SCHEDULES), steps=st.integers(1, 300))
@settings(deadline=None, max_examples=40)
def test_schedules_are_positive_peak_at_the_given_rate_and_end_low(name, steps):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = schedule.make(name, optimizer, steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.rate(optimizer))
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 0.5 for rate in rates)
    if steps >= 20:
        assert max(rates) > 0.45 and rates[-1] < 0.05  # the peak may lie between two steps
        assert rates.index(max(rates)) <= steps * 0.3


def test_every_network_has_its_own_learning_rates():
    for name in models.names():
        for optimizer in optimizers.OPTIMIZERS:
            assert 0 < defaults.learning_rate(name, optimizer, 128) <= (2.0 if optimizer == "lars" else 0.2)
    assert set(defaults._LEARNING_RATES) == set(models.names())


def test_learning_rate_follows_the_batch():
    rate = defaults.learning_rate("own:net", "sgd", 128)
    assert defaults.learning_rate("own:net", "sgd", 64) == rate / 2
    assert defaults.learning_rate("own:net", "sgd", 4096) == rate * 4
    assert defaults.learning_rate("own:net", "adamw", 32) == defaults.learning_rate("own:net", "adamw", 128) / 2


def test_biases_and_normalisation_do_not_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    for name in optimizers.OPTIMIZERS:
        optimizer = optimizers.make(name, model, learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.01)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert {n: decay[id(p)] for n, p in model.named_parameters()} == {
            "0.weight": 0.01, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.01, "3.bias": 0.0
        }  # fmt: skip


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = optimizers.make("sgd", model, learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def macs(model, *shape):
    return count_macs(model, torch.randn(3, *shape))[1]


def test_macs_by_hand():
    first = 2 * (8 * 4 * 9 * 10 * 12)  # forward and dW; the images need no gradient
    second = 3 * (6 * (8 // 2) * 3 * 3 * 5 * 6)
    assert macs(nn.Conv2d(4, 8, 3, padding=1), 4, 10, 12) == first
    grouped = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)
    assert macs(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), grouped), 4, 10, 12) == first + second
    assert macs(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), 7) == 2 * 35 + 3 * 15
    frozen = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    frozen[0].requires_grad_(False)
    assert macs(frozen, 7) == 35 + 2 * 15  # nothing before the second layer is trained, so its inputs need none
    assert macs(nn.LSTM(6, 4, batch_first=True), 9, 6) == 2 * 9 * 4 * 4 * (6 + 4)


def test_macs_of_attention():
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    assert macs(SelfAttention(8, 2, batch_first=True), 5, 8) == 2 * (5 * 8 * 8 * 4 + 2 * 5 * 5 * 8)


@pytest.mark.parametrize(("name", "size", "forward_gmacs"), [("vgg19", 224, 19.63), ("resnet50", 224, 4.09)])
def test_macs_of_known_networks(name, size, forward_gmacs):
    with torch.device("meta"):
        model = models.build(name, num_classes=1000, image_size=size)
        logits, found = count_macs(model, torch.empty(1, 3, size, size))
    assert logits.shape == (1, 1000)
    assert found / 3e9 == pytest.approx(forward_gmacs, rel=0.02)


def test_counting_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    macs(model, 1, 5, 5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_checkpoints_keep_the_one_before(tmp_path):
    assert checkpoint.load(tmp_path / "absent") == (None, [])
    for number in range(3):
        checkpoint.save(tmp_path, {"number": number}, identity={"run": 1})
    assert checkpoint.load(tmp_path, identity={"run": 1}) == ({"number": 2}, [])
    (tmp_path / "last.pt").unlink()  # as when a crash came between the two renames
    assert checkpoint.load(tmp_path) == ({"number": 1}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_ones(tmp_path):
    checkpoint.save(tmp_path, {"number": 1}, identity={})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path, {"number": 2, "bad": lambda: None}, identity={})
    assert checkpoint.load(tmp_path) == ({"number": 1}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_flipped_byte_or_cut_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, {"weights": torch.arange(2000.0)}, identity={})
    path = folder / "last.pt"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    path.write_bytes(content)
    try:
        state, _ = checkpoint.load(folder, identity={})
    except CheckpointError:
        return
    # Padding between the entries of the zip and copies of sizes may change; what is read may not.
    assert torch.equal(state["weights"], torch.arange(2000.0))


def test_rhythm_by_steps_and_by_the_clock(monkeypatch):
    by_steps = Rhythm(4)
    assert [step for step in range(1, 13) if by_steps.due(step)] == [4, 8, 12]
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    by_clock = Rhythm(None)
    now = 29.0
    assert not by_clock.due(1)
    now = 30.0
    assert by_clock.due(2)
    by_clock.saved(10.0)  # a large model on a slow disk
    now = 229.0
    assert not by_clock.due(3)
    now = 230.0
    assert by_clock.due(4)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_starts_anew():
    block = np.ones(40_000_000)
    high = memory.PeakMemory()
    assert high.bytes() > 320e6
    if high.source != "VmHWM":
        pytest.skip("this system does not let a process reset its high-water mark")
    level = high.bytes()
    del block
    memory.release()
    assert memory.PeakMemory().bytes() < level - 200e6


def test_peak_memory_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "absent" / "clear_refs")
    peak = memory.PeakMemory()
    assert peak.source == "ru_maxrss" and peak.bytes() > 50e6


def test_tally_travels():
    tally = Tally()
    tally.add_step(loss=1.25, correct=3, images=4, learning_rate=0.1)
    tally.end_epoch(test_loss=1.0, test_accuracy=0.5)
    tally.add_step(loss=math.pi, correct=1, images=2, learning_rate=0.2)
    assert Tally.from_state(tally.state_dict()) == tally
    with pytest.raises(CheckpointError, match="another version"):
        Tally.from_state({"step": 1})


def arm(name, accuracies, seconds, macs=100, methods=()):
    rows = [{"test_accuracy": a, "train_s": s} for a, s in zip(accuracies, seconds, strict=True)]
    done = rows[-1] if rows else {"test_accuracy": None, "train_s": 0.0}
    return {"name": name, "methods": list(methods), "epochs": rows, "macs": macs, **done}


def test_summary():
    arms = [
        arm("dense", [0.5, 0.8], [10.0, 20.0]),
        arm("fast", [0.6, 0.85], [4.0, 8.0], macs=25, methods=["m"]),
        arm("never", [0.1, 0.7], [4.0, 8.0], methods=["m"]),
        arm("not begun", [], [], methods=["m"]),
    ]
    found = summarise(arms)
    assert found["baseline"] == "dense" and set(found["arms"]) == {"fast", "never"}
    assert found["arms"]["fast"] == {
        "train_s_ratio": 2.5,
        "accuracy_delta": pytest.approx(0.05),
        "macs_ratio": 4.0,
        "seconds_to_baseline_accuracy": 8.0,
    }
    assert found["arms"]["never"]["seconds_to_baseline_accuracy"] is None
    assert summarise(arms[1:]) == {"baseline": None, "arms": {}}


def test_process_is_told_apart_only_by_its_lock(tmp_path):
    from thrifty.train.folder import locked

    with locked(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
    with locked(tmp_path):
        pass
