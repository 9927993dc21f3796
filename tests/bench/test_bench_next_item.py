"""The next-item benchmark on a few made-up users: keys, own rates, trainings that go on, choices that are refused."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from thrifty.bench import lsh_next_item
from thrifty.bench.next_item_arms import ARMS, Recipe
from thrifty.bench.next_item_runs import RECORD, STATE, Length, Run
from thrifty.core.errors import DataError, UsageError
from thrifty.data import load_next_items

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path):
    # Items follow each other in a ring, so that there is something to learn.
    starts = np.random.default_rng(0).integers(0, 400, size=(300, 1))
    items = (starts + np.arange(8)) % 400 + 1
    np.savez(tmp_path / "x.npz", items=items.ravel(), offsets=np.arange(0, 2401, 8))
    return load_next_items(tmp_path / "x.npz")


def compared(data, tmp_path, *words):
    small = [f"out={tmp_path / 'runs'}", "users=50", "looks=2", "batch=128", "turns=1", *words]
    choices, rates = lsh_next_item._choices(False, small)
    return lsh_next_item.compare(data, choices, rates, QUIET, float("inf"))


def test_every_arm_at_its_own_rate_and_every_key(data, tmp_path):
    rows, runs = compared(data, tmp_path, "epochs=1.5", "rates=0.001,0.02", "lr.adaptive=0.01", "seeds=2")
    assert [(row["method"], row["seed"]) for row in rows] == [*((arm, 0) for arm in ARMS), *((arm, 1) for arm in ARMS)]
    assert len(runs) == 3 * 2 + 1 + 4
    keys = {"step_s", "seconds_to_target", "hr10", "ndcg10", "lr", "valid_ndcg10", "curve"}
    assert all(keys <= set(row) for row in rows)
    for row in rows:
        of_arm = [one for one in runs if one.arm == row["method"] and one.recipe.seed == 0]
        assert row["lr"] == max(of_arm, key=lambda one: one.best["valid_ndcg10"]).recipe.lr
    full = rows[ARMS.index("full")]
    best = max(full["curve"], key=lambda point: point["valid_ndcg10"])
    assert full["steps_to_target"] == best["steps"]
    assert full["seconds_to_target"] == pytest.approx(best["steps"] * full["step_mean_s"])
    keys = {"step_speedup", "quality_ratio", "hr_ratio", "time_to_target_speedup", "seeds"}
    assert set(lsh_next_item._summary(rows)) == keys


@pytest.mark.parametrize("arm", ["full", "sampled", "lsh"])
def test_a_training_in_pieces_is_the_same_training(data, tmp_path, arm):
    recipe, length = Recipe(batch=128, active=64, tail=64), Length(epochs=2, patience=9, looks=2, users=50)
    whole = Run(data, arm, recipe, length, tmp_path / "whole")
    whole.go_on(QUIET)
    while not (part := Run(data, arm, recipe, length, tmp_path / "parts")).over:
        part.length = Length(epochs=(len(part.curve) + 1) / 2, patience=9, looks=2, users=50)
        part.go_on(QUIET)
    without = [[{key: value for key, value in point.items() if key != "train_s"} for point in one.curve]
               for one in (whole, part)]  # fmt: skip
    assert without[0] == without[1] and len(without[0]) == 4
    weights = [torch.load(one.folder / STATE)["trained"]["model"] for one in (whole, part)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert whole.folder.name == part.folder.name


def test_what_is_over_is_not_trained_again_and_other_settings_are_other_runs(data, tmp_path):
    recipe, length = Recipe(batch=128), Length(epochs=1, looks=2, users=50)
    first = Run(data, "full", recipe, length, tmp_path)
    first.go_on(QUIET)
    before = (first.folder / STATE).stat().st_mtime_ns
    again = Run(data, "full", Recipe(batch=128, active=7), length, tmp_path)  # which only the hashed arm has
    again.go_on(QUIET)
    assert again.curve == first.curve and (first.folder / STATE).stat().st_mtime_ns == before
    assert Run(data, "full", Recipe(batch=64), length, tmp_path).curve == []
    assert (
        Run(data, "lsh", Recipe(batch=128, active=7), length, tmp_path).folder
        != Run(data, "lsh", recipe, length, tmp_path).folder
    )


def test_a_kill_between_state_and_record_loses_nothing(data, tmp_path):
    recipe, length = Recipe(batch=128), Length(epochs=1, looks=4, users=50)
    one = Run(data, "sampled", recipe, length, tmp_path)
    one.go_on(QUIET)
    record = json.loads((one.folder / RECORD).read_text())
    record["curve"] = record["curve"][:-1]
    (one.folder / RECORD).write_text(json.dumps(record))
    again = Run(data, "sampled", recipe, length, tmp_path)
    again.go_on(QUIET)
    assert again.curve == one.curve


def test_a_training_without_progress_is_over(data, tmp_path):
    one = Run(data, "full", Recipe(batch=128), Length(epochs=9, patience=1, looks=2, users=50), tmp_path)
    one.curve = [{"epochs": (i + 1) / 2, "steps": i + 1, "valid_ndcg10": value} for i, value in enumerate((1, 3, 2))]
    assert not one.over and one.reached(1) == 1 and one.reached(2) == 2 and one.reached(4) is None
    one.curve.append({"epochs": 2.0, "steps": 4, "valid_ndcg10": 2.5})
    assert one.over and one.best["steps"] == 2


def test_a_limit_of_time_leaves_the_rest_for_the_same_command(data, tmp_path):
    words = ["epochs=1", "rates=0.01", "arms=full,lsh"]
    choices, rates = lsh_next_item._choices(
        False, [f"out={tmp_path / 'runs'}", "users=50", "looks=2", "batch=128", "turns=1", *words]
    )
    rows, runs = lsh_next_item.compare(data, choices, rates, QUIET, 0.0)
    assert rows == [] and not any(one.over for one in runs) and lsh_next_item._summary(rows) == {}
    assert len(compared(data, tmp_path, *words)[0]) == 2


@pytest.mark.parametrize("name", [RECORD, STATE])
def test_a_damaged_training_is_refused_by_name(data, tmp_path, name):
    length = Length(epochs=0.5, looks=2, users=50)
    one = Run(data, "full", Recipe(batch=128), length, tmp_path)
    one.go_on(QUIET)
    (one.folder / name).write_bytes(b"{")
    with pytest.raises(DataError, match="delete this folder"):
        Run(data, "full", Recipe(batch=128), Length(epochs=1, looks=2, users=50), tmp_path).go_on(QUIET)


@pytest.mark.parametrize(
    "word", ["arms=full,best", "lr.mine=3", "lr.lsh=soon", "epochs=0", "rates=fast", "rates=0", "limit_s=0"]
)
def test_choices_that_cannot_be_meant(word):
    with pytest.raises(UsageError, match="--set"):
        lsh_next_item._choices(False, [word])
