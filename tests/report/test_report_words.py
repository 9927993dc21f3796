"""Numbers and sentences: readable, and never kinder than the figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thrifty.report import load, numbers, words
from thrifty.report.compare import comparisons
from thrifty.report.record import parse


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 s"), (4.2e-5, "42.0 us"), (0.0123, "12.3 ms"), (0.9996, "1.00 s"), (2.6, "2.60 s"),
     (99.96, "100 s"), (754, "12 min 34 s"), (599.6, "10 min 00 s"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert numbers.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_600, "1.00 M"), (2e12, "2.00 T")],
)
def test_counts(value: float | None, text: str) -> None:
    assert numbers.count(value) == text


def test_sizes_shares_points_and_columns() -> None:
    assert [numbers.size(one) for one in (None, 0, 512, 412e6)] == ["-", "0 B", "512 B", "412 MB"]
    assert numbers.percent(0.7124) == "71.2%"
    assert [numbers.points(one) for one in (-0.008, 0.012, 0.0001, None)] == ["-0.8", "+1.2", "0.0", "-"]
    assert numbers.column([0.9, None, 12.345]) == ["0.90", "-", "12.35"]
    assert numbers.column([]) == []


@pytest.mark.parametrize(
    ("dense", "arm", "said"),
    [
        ((10, 0.7), (15.1, 0.692), "1.51 times slower and 0.8 points less accurate than dense"),
        ((10, 0.7), (5, 0.71), "2 times faster and 1.0 point more accurate than dense"),
        ((10, 0.7), (10.1, 0.7), "as fast and as accurate as dense"),
        ((10, 0.7), (20, 0.7), "2 times slower than dense and as accurate"),
        ((10, 0.7), (10, 0.6), "as fast as dense and 10.0 points less accurate"),
    ],
)
def test_verdicts(dense: tuple[float, float], arm: tuple[float, float], said: str) -> None:
    def made(name: str, train_s: float, accuracy: float) -> dict[str, Any]:
        epochs = [{"epoch": 1, "train_s": train_s, "test_accuracy": accuracy}]
        return {"name": name, "status": "finished", "train_s": train_s, "test_accuracy": accuracy, "epochs": epochs}

    record = parse({"arms": [made("dense", *dense), made("reuse", *arm) | {"methods": ["reuse"]}]})
    assert words.against(comparisons(record)[0]) == said
    assert words.headline(record).endswith(f"reuse was {said}")


def test_saved_work_that_cost_time_is_said_to_have_cost_time(make_run_dir: Callable[[str], Path]) -> None:
    found = comparisons(load(make_run_dir("whole")))[0]
    text = words.verdict(found)
    assert "1.51 times slower" in text and "1.3 points less accurate" in text
    assert "61.0% fewer multiply-adds, but the work around them cost more time than that saved" in text
    assert "did not reach the final accuracy of dense" in text


def test_seconds_of_an_arm_that_changed_nothing_are_called_the_machines() -> None:
    layer = {"name": "conv", "kind": "Conv2d", "action": "dense", "reason": "too small"}
    slow = {"name": "reuse", "methods": ["reuse"], "status": "finished", "train_s": 20.0, "layers": [layer]}
    dense = {"name": "dense", "status": "finished", "train_s": 10.0}
    said = [
        words.verdict(comparisons(parse({"arms": [dense, slow | more]}))[0])
        for more in ({}, {"amp": "bf16"}, {"layers": [layer | {"action": "reuse"}]}, {"layers": []})
    ]
    assert ["the machine's" in one for one in said] == [True, False, False, False]


def test_an_unfinished_arm_is_compared_at_equal_epochs(make_run_dir: Callable[[str], Path]) -> None:
    record = load(make_run_dir("unfinished"))
    found, pending = comparisons(record)
    assert found.epoch == 2 and not found.whole
    assert found.train_s_ratio == pytest.approx(2.42 / 3.66)
    assert words.verdict(found).startswith("After 2 epochs of each, reuse was 1.51 times slower")
    assert words.headline(record).endswith("after 2 epochs")
    assert words.verdict(pending) == "reuse-fixed cannot be set against dense yet: not started."


def test_a_stopped_arm_gives_its_message(make_run_dir: Callable[[str], Path]) -> None:
    record = load(make_run_dir("stopped"))
    assert "reuse: stopped (loss is nan at step 233; last good checkpoint kept)." in words.notices(record)


def test_without_a_baseline_the_arm_speaks_for_itself(make_run_dir: Callable[[str], Path]) -> None:
    record = parse({"arms": [{"name": "reuse", "methods": ["reuse"], "test_accuracy": 0.5, "train_s": 3}]})
    assert words.headline(record) == (
        "a network on unnamed data: reuse got 50.0% of the test set right after 3.00 s of training"
    )


@pytest.mark.parametrize(("images", "chance"), [(500, True), (20_000, False), (None, False), ("many", False)])
def test_a_difference_that_few_images_cannot_tell_is_called_chance(
    make_run_dir: Callable[[str], Path], images: object, chance: bool
) -> None:
    record = load(make_run_dir("whole"))
    record.settings["test_images"] = images
    found = comparisons(record)[0]
    assert found.accuracy_delta == pytest.approx(-0.0125, abs=1e-4)
    assert found.within_chance == chance == ("can be chance" in words.details(found))


def test_buckets_of_gradients_and_whether_they_are_those_of_the_plan() -> None:
    own = {"rule": "ddp-default", "bytes": [8_000_000, 26_000_000], "planned_bytes": None}
    planned = {"rule": "optimal", "bytes": [500], "planned_bytes": [500], "differences": []}
    drifted = {**planned, "planned_bytes": [200, 300], "differences": ["2 buckets were planned, there are 1"]}
    record = parse({"arms": [{"name": "dense", "buckets": of} for of in (own, planned, drifted)]})
    assert [words.buckets(arm) for arm in record.arms] == [
        "Gradients of dense travelled in 2 buckets of 8.00 MB to 26.0 MB, DistributedDataParallel's own.",
        "Gradients of dense travelled in one bucket of 500 B, by the merge plan.",
        "Gradients of dense travelled in one bucket of 500 B, by the merge plan but for 1 difference.",
    ]
