"""Benches large-batch and precision, end to end on a few images; and what they refuse."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from thrifty.bench import large_batch, small_residual
from thrifty.bench.registry import load
from thrifty.core.errors import UsageError
from thrifty.train import TrainConfig
from thrifty.train.arms import parse_arms

SLICE = "fashion-mnist-slice"
SMALL = ("limit_train=96", "seeds=1")


def run(name, *options, quick=False, earlier=None):
    return load(name).run(quick=quick, console=Console(file=io.StringIO()), options=options, earlier=earlier)


def test_large_batch_compares_with_the_small_one(tmp_path):
    out = f"out={tmp_path}"
    own = (f"data={SLICE}", "batch_size=48", "epochs=2", "precision=none", *SMALL, out)
    found = run("large-batch", *own, "arms=lars,sgd")
    by_arm = {row["arm"]: row for row in found.rows}
    assert list(by_arm) == ["sgd 128", "lars", "sgd"]
    assert (by_arm["lars"]["batch"], by_arm["sgd 128"]["batch"], by_arm["lars"]["steps"]) == (48, 128, 4)
    assert by_arm["sgd"]["learning_rate"] == pytest.approx(0.1 * 48 / 128)
    assert all(0 <= row["accuracy"] <= 1 and len(row["curve"]) == 2 for row in found.rows)
    points = found.summary[SLICE]["points_against_small_batch"]
    mark = found.summary[SLICE]["small_batch_accuracy"]
    assert points["lars"] == pytest.approx(100 * (by_arm["lars"]["accuracy"] - mark))
    again = run("large-batch", *own, "arms=lars", earlier={"rows": [{**found.rows[0], "data": "kept"}]})
    assert [row["data"] for row in again.rows] == ["kept", SLICE, SLICE]
    assert again.rows[2]["accuracy"] == by_arm["lars"]["accuracy"], "what is done is not done again"


def test_every_arm_is_a_training():
    for own in large_batch.ARMS.values():
        settings = {"model": large_batch.NETWORK, "batch_size": 8192, "learning_rate": 1.0, "methods": "none", **own}
        assert parse_arms(TrainConfig(**settings))
    without = [own for arm, own in large_batch.ARMS.items() if arm.startswith("lars,")]
    recipe = large_batch.ARMS["lars"]
    assert len(without) >= 4
    for own in without:
        assert len({key for key in {**own, **recipe} if own.get(key) != recipe.get(key)}) == 1, "one at a time"


def test_the_small_network_starts_with_blocks_that_are_their_shortcuts():
    torch.manual_seed(0)
    model = small_residual.network(10, 3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(model[2].eval()(x), x)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8e4, rel=0.1)
    assert small_residual.plain(10, 3)[2].bn2.weight.all()


def test_precision_times_steps_and_trains(tmp_path):
    found = run(
        "precision", "networks=cifarnet", "trained=cifarnet", f"data={SLICE}", "batch_size=8", "repeats=2", "epochs=1",
        "limit_train=16", "limit_test=20", f"out={tmp_path}",
    )  # fmt: skip
    assert [row["dtype"] for row in found.rows] == ["none", "bf16", "bf16-weights"]
    assert found.rows[0]["speedup"] == 1.0
    assert all(row["min_s"] <= row["step_s"] <= row["max_s"] and 0 <= row["accuracy"] <= 1 for row in found.rows)
    assert set(found.summary["cifarnet"]) == {"bf16_speedup", "bf16-weights_speedup"}
    assert set(found.summary["accuracy"]) == {"none", "bf16", "bf16-weights"}


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("large-batch", "arms=adam", "arms=adam: choose among sgd, lars"),
        ("large-batch", "seeds=0", "give 1 or more"),
        ("large-batch", "lars.rate=1", "large-batch has no such setting"),
        ("precision", "precisions=fp8", "precisions=fp8: choose among none, bf16, bf16-weights"),
        ("precision", "precisions=bf16", "precisions needs none"),
        ("precision", "repeats=0", "repeats 1 or more"),
    ],
)
def test_choices_that_cannot_be_meant(name, option, message):
    with pytest.raises(UsageError, match=message):
        run(name, option)


def test_rates_can_be_chosen_on_training_images_that_are_held_out(tiny_images):
    found = large_batch.held_out(tiny_images, 8)
    assert (len(found.train), len(found.test)) == (40, 8)
    assert torch.equal(found.test.labels, tiny_images.train.labels[40:]) and "held out" in found.source
    assert large_batch.held_out(tiny_images, 0) is tiny_images
    with pytest.raises(UsageError, match="held_out=48: there are 48 training images"):
        large_batch.held_out(tiny_images, 48)
