"""What a run promises beside resuming: seeds, equal starts, an honest record, arms that stop alone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_nets
import torch

from thrifty import report
from thrifty.core.errors import NonFiniteError
from thrifty.train import load_weights, run
from thrifty.train.arms import parse_arms
from thrifty.train.evaluate import evaluate
from thrifty.train.session import Session
from thrifty.train.trial import make_plan

REUSE = {
    "methods": "reuse",
    "settings": ('reuse.stages=[{"length":8,"bits":4}]', "reuse.skip_zeros=false", "reuse.measure=false"),
}


def losses(config, arm="dense"):
    return np.load(Path(config.out) / "losses" / f"{arm}.npy")


def test_seed_repeats_a_run_and_another_seed_does_not(config):
    one, same, other = config("one"), config("same"), config("other", seed=1)
    for asked in (one, same, other):
        assert run(asked).exit_code == 0
    assert losses(one).tobytes() == losses(same).tobytes()
    assert losses(one)[0] != losses(other)[0]


def test_arms_start_from_the_same_weights_on_the_same_batches(config):
    asked = config("run", **REUSE).resolved()
    plan = make_plan(asked, parse_arms(asked))
    dense, reuse = (Session(asked, arm, plan.data, steps=plan.steps) for arm in parse_arms(asked))
    one, other = dense.model.state_dict(), reuse.model.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)
    for (images, labels), (images_again, labels_again) in zip(
        plan.train_batches(1, 0), plan.train_batches(1, 0), strict=True
    ):
        assert torch.equal(images, images_again) and torch.equal(labels, labels_again)


def test_an_arm_does_not_depend_on_the_arms_before_it(config):
    both, alone = config("both", **REUSE), config("alone", baseline="none", **REUSE)
    assert run(both).exit_code == run(alone).exit_code == 0
    assert losses(both, "reuse").tobytes() == losses(alone, "reuse").tobytes()


def test_dense_arm_is_stock_torch_training_bit_for_bit(config):
    asked = config("run", epochs=1, learning_rate=0.02, weight_decay=0.0, schedule="step").resolved()
    assert run(asked).exit_code == 0
    plan = make_plan(asked, parse_arms(asked))
    session = Session(asked, parse_arms(asked)[0], plan.data, steps=plan.steps)  # for its seeds and weights
    model, expected = session.model, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, fused=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step, (images, labels) in enumerate(plan.train_batches(0, 0)):
            optimizer.param_groups[0]["lr"] = 0.02 * (1.0 if step < 3 else 0.1 if step < 5 else 0.01)
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    finally:
        torch.set_num_threads(threads)
    assert losses(asked).tolist() == expected
    trained = load_weights(asked.out)
    assert all(torch.equal(trained[key], value) for key, value in model.state_dict().items())


def test_evaluation_leaves_no_trace(config):
    asked = config("run").resolved()
    plan = make_plan(asked, parse_arms(asked))
    model = tiny_nets.net(3, 3, (8, 8))
    model[1].eval()  # somebody's frozen BatchNorm stays frozen, the rest stays in training
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    loss, accuracy = evaluate(model, plan.test_batches())
    assert math.isfinite(loss) and 0 <= accuracy <= 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_is_the_mean_over_images_not_over_batches():
    model = torch.nn.Identity()
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss, accuracy = evaluate(model, [(logits[:4], labels[:4]), (logits[4:], labels[4:])])
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_it_learns(config):
    outcome = run(config("run", epochs=12, learning_rate=0.05, augment=False))
    assert outcome.record["arms"][0]["test_accuracy"] > 0.9


def test_generator_of_the_caller_is_left_alone(config):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(config("run", epochs=1))
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_record_is_what_the_report_reads(config):
    asked = config("run", limit_steps=10, **REUSE)
    outcome = run(asked, command="thrifty train --and so on")
    found = report.load(asked.out)
    assert found.problems == () and found.finished and found.command == "thrifty train --and so on"
    assert json.loads((Path(asked.out) / "result.json").read_text()) == outcome.record
    dense, reuse = found.arms
    assert (dense.name, reuse.name) == ("dense", "reuse") and reuse.methods == ("Reuse",)
    for arm in found.arms:
        assert arm.steps == 10 and len(arm.epochs) == 2  # the second epoch ends after its third step
        assert arm.epochs[-1].train_s == arm.train_s > 0 and arm.peak_bytes > 1e6
        assert [row.epoch for row in arm.epochs] == [1, 2]
    assert dense.macs == dense.dense_macs == reuse.dense_macs > 0
    assert {layer.action for layer in reuse.layers} == {"reuse", "dense"}
    (changed,) = (layer for layer in reuse.layers if layer.action == "reuse")
    # What the changed layer counts as dense work is what our own count says of it: 80 images of 64 pixels, forward
    # and two products backward.
    assert changed.dense_macs == 80 * 64 * 16 * 16 * 9 * 3
    assert reuse.dense_macs - reuse.macs == changed.dense_macs - changed.macs
    summary = outcome.record["summary"]
    assert summary["baseline"] == "dense" and set(summary["arms"]) == {"reuse"}
    assert summary["arms"]["reuse"]["train_s_ratio"] == pytest.approx(dense.train_s / reuse.train_s)
    assert report.write(asked.out).is_file()


def test_non_finite_loss_stops_its_arm_alone_and_keeps_the_last_good_checkpoint(config, capsys):
    asked = config("run", model="tiny_nets:turns_bad", methods="dense@bf16")
    outcome = run(asked)
    assert outcome.exit_code == 1 and outcome.record["status"] == "finished"
    for arm in outcome.record["arms"]:  # the second arm was tried although the first had stopped
        assert arm["status"] == "stopped"
        assert (
            arm["message"].startswith("the loss of step 7 is nan (learning rate ")
            and "--learning-rate" in arm["message"]
        )
        assert arm["steps"] == 6
        weights = load_weights(asked.out, arm["name"])
        assert all(value.isfinite().all() for value in weights.values())
    assert "dense stopped: the loss of step 7 is nan" in capsys.readouterr().out
    before = (Path(asked.out) / "checkpoints" / "dense" / "last.pt").read_bytes()
    again = run(config("run", model="tiny_nets:turns_bad", methods="dense@bf16", resume=True))
    assert again.exit_code == 1  # it would only diverge once more
    assert (Path(asked.out) / "checkpoints" / "dense" / "last.pt").read_bytes() == before


def test_diverging_learning_rate_is_told(config):
    outcome = run(config("run", learning_rate=1e12, schedule="step"))
    (arm,) = outcome.record["arms"]
    assert outcome.exit_code == 1 and arm["status"] == "stopped" and "lower --learning-rate" in arm["message"]


def test_method_that_changes_nothing_is_told(config, capsys):
    run(config("run", model="lstm", epochs=1, methods="reuse"))
    assert "warning: reuse changed nothing" in capsys.readouterr().out


def test_real_images_in_a_zip(config, shared_data):
    asked = config("run", data="cifar10", data_root=str(shared_data), limit_train=64, limit_test=40, epochs=1)
    outcome = run(asked)
    assert outcome.exit_code == 0
    found = outcome.record["settings"]
    assert "JPEG q75" in found["source"] and found["train_images"] == 64 and found["image_shape"] == [32, 32, 3]


def test_tensorboard_events(config):
    pytest.importorskip("tensorboard")
    asked = config("run", epochs=2, tensorboard=True)
    run(asked)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(asked.out) / "tensorboard" / "dense"))
    events.Reload()
    assert [point.step for point in events.Scalars("epoch/test_accuracy")] == [7, 14]
    assert [point.step for point in events.Scalars("train/loss")] == [10]


def test_non_finite_error_leaves_by_code_1():
    assert NonFiniteError.exit_code == 1
