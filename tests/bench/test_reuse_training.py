"""Seconds to equal accuracy on made-up curves; the benchmark end to end on a tiny network; kill, resume and merge."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_nets
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from thrifty.bench import reuse_training
from thrifty.bench.compile_probe import choose
from thrifty.bench.options import read_options
from thrifty.bench.output import read_earlier
from thrifty.bench.registry import load
from thrifty.bench.reuse_training import Course
from thrifty.bench.time_to_accuracy import MARGIN, accuracy_at, fill_in, seconds_to
from thrifty.core.errors import DataError, UsageError

SLICE = "fashion-mnist-slice"
TINY = {"tiny/slice": Course("tiny_nets:net", SLICE, epochs=3), "other/slice": Course("tiny_nets:net", SLICE, epochs=1)}
SMALL = ("limit_train=40", "limit_test=20", "batch_size=8")


def made_row(arm: str, seed: int, *accuracies: float, epoch_s: float = 10.0, stopped: bool = False) -> dict[str, Any]:
    curve = [[epoch_s * (i + 1), accuracy] for i, accuracy in enumerate(accuracies)]
    return {
        "network": "n", "data": "d", "arm": arm, "seed": seed, "curve": curve,
        "final_accuracy": None if stopped else curve[-1][1], "train_s": curve[-1][0],
        "step_s": epoch_s / 100, "gflops": 1.0, "peak_bytes": 100 if arm == "dense" else 130, "data_s": 0.1,
        "epoch_spread": 1.0,
    }  # fmt: skip


def test_seconds_are_read_between_the_ends_of_epochs() -> None:
    curve = [(10.0, 0.5), (20.0, 0.7), (30.0, 0.6), (40.0, 0.9)]
    assert seconds_to(curve, 0.6) == pytest.approx(15.0), "the first time counts"
    assert seconds_to(curve, 0.75) == pytest.approx(35.0)
    assert seconds_to(curve, 0.4) == 10.0, "before the first test nothing is known"
    assert seconds_to(curve, 0.91) is None and seconds_to([], 0.1) is None
    assert accuracy_at(curve, 5.0) is None and accuracy_at(curve, 15.0) == pytest.approx(0.6)
    assert accuracy_at(curve, 99.0) == 0.9 and accuracy_at([], 1.0) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_seconds_lie_where_the_curve_first_has_the_target(accuracies: list[float], target: float) -> None:
    curve = [(float(i + 1), accuracy) for i, accuracy in enumerate(accuracies)]
    found = seconds_to(curve, target)
    assert (found is None) == (max(accuracies) < target)
    if found is not None:
        assert all(accuracy < target for s, accuracy in curve if s < found - 1e-9)
        assert accuracy_at(curve, found) >= target - 1e-9


def test_the_summary_of_two_seeds_by_hand() -> None:
    rows = [
        made_row("dense", 0, 0.5, 0.803), made_row("dense", 1, 0.5, 0.803),
        made_row("dense@bf16", 0, 0.4, 0.8, epoch_s=5.0), made_row("dense@bf16", 1, 0.4, 0.8, epoch_s=5.0),
        # one seed above the target of 0.8, one below: in the mean they are on it at the end of the second epoch
        made_row("reuse", 0, 0.3, 0.82, epoch_s=4.0), made_row("reuse", 1, 0.3, 0.78, epoch_s=4.0),
    ]  # fmt: skip
    found = fill_in(rows)
    assert found["target_accuracy"] == pytest.approx(0.803 - MARGIN)
    assert (found["ours"], found["best_dense"]) == ("reuse", "dense@bf16")
    dense_s = 10 + 10 * (0.3 / 0.303)
    assert found["arms"]["dense"]["seconds_to_target"] == pytest.approx(dense_s)
    assert found["arms"]["reuse"]["seconds_to_target"] == pytest.approx(8.0)
    assert found["saved_vs_fp32"] == pytest.approx(1 - 8 / dense_s)
    assert found["saved_vs_best"] == pytest.approx(0.2)
    assert found["accuracy_delta"] == pytest.approx(-0.003)
    assert found["peak_ratio"] == pytest.approx(1.3)
    assert found["arms"]["dense"]["accuracy_at_equal_seconds"] is None, "it is still in its first epoch then"
    assert [row["seconds_to_target"] is None for row in rows] == [False] * 5 + [True], (
        "each seed against the same target"
    )
    json.dumps(found, allow_nan=False)


def test_auto_is_measured_against_the_quickest_arm_and_against_dense() -> None:
    auto = {**made_row("auto", 0, 0.5, 0.9, epoch_s=6.0), "choice": "reuse@bf16", "plan_s": 1.5}
    rows = [made_row("dense", 0, 0.5, 0.8), made_row("dense@bf16", 0, 0.5, 0.8, epoch_s=5.0), auto]
    found = fill_in(rows)
    assert (found["auto"], found["auto_plan_s"], found["best_arm"]) == ("reuse@bf16", 1.5, "dense@bf16")
    assert found["auto_vs_best_arm"] == pytest.approx(1.2) and found["auto_vs_dense"] == pytest.approx(0.6)
    assert found["ours"] is None, "what was chosen by itself is not what was chosen by hand"
    assert fill_in(rows[:2])["auto_vs_dense"] is None and fill_in(rows[1:])["auto_vs_dense"] is None


def test_what_was_not_reached_is_null() -> None:
    never = fill_in([made_row("dense", 0, 0.9), made_row("reuse", 0, 0.5)])
    assert never["saved_vs_fp32"] is None and never["ours"] is None and never["accuracy_delta"] == pytest.approx(-0.4)
    alone = fill_in([made_row("reuse", 0, 0.5)])
    assert alone["target_accuracy"] is None and alone["saved_vs_best"] is None
    stopped = fill_in([made_row("dense", 0, 0.9), made_row("reuse", 0, 0.95, stopped=True)])
    assert list(stopped["arms"]) == ["dense"] and stopped["saved_vs_fp32"] is None


def test_compiling_must_help_and_the_quickest_is_taken() -> None:
    steps = {
        "dense": {"eager_s": 1.0, "compiled_s": 0.9, "compile_s": 20.0},
        "dense@bf16": {"eager_s": 0.5, "compiled_s": 0.49, "compile_s": 20.0},
    }
    assert choose(steps)["arm"] == "dense", "0.49 of 0.5 is within the noise"
    steps["dense@bf16"]["compiled_s"] = 0.4
    assert choose(steps)["arm"] == "dense@bf16"
    failed = choose({"dense": {"eager_s": 1.0, "reason": "no C++ compiler"}})
    assert failed["arm"] is None and failed["reason"] == "dense does not compile (no C++ compiler)"


@dataclass(frozen=True)
class Demo:
    count: int | None = None
    names: tuple[str, ...] = ()
    word: str = "a"


def test_options_are_typed_and_dotted_keys_handed_back() -> None:
    choices, dotted = read_options(Demo, ["count=3", "names=x, y", "word=z", 'm.k=[{"a": 1}]', "m.j=1e-3"])
    assert choices == Demo(3, ("x", "y"), "z") and dotted == {"m.k": [{"a": 1}], "m.j": 1e-3}
    for words, said in (
        (["count"], "write it as key=value"),
        (["count=1", "count=2"], "given twice"),
        (["cuont=1"], "no field 'cuont'"),
        (["count=one"], "count"),
    ):
        with pytest.raises(UsageError, match=said):
            read_options(Demo, words)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the benchmark on tiny networks: `bench(*options, earlier=...)`; returns result and text."""
    monkeypatch.setattr(reuse_training, "COURSES", TINY)

    def call(*options: str, earlier: dict[str, Any] | None = None, quick: bool = False):
        console = Console(file=io.StringIO(), width=200)
        given = {option.partition("=")[0] for option in options}
        words = [word for word in (*SMALL, f"out={tmp_path / 'runs'}") if word.partition("=")[0] not in given]
        words += options
        result = load("reuse-training").run(quick=quick, console=console, options=words, earlier=earlier)
        return result, console.file.getvalue()

    return call


def test_all_arms_end_to_end_and_nothing_is_trained_twice(bench, tmp_path: Path) -> None:
    words = ("networks=tiny/slice", "arms=dense,dense@bf16,reuse,reuse@bf16", "seeds=2", "epochs.reuse=4",
             'reuse.stages=[{"length": 8, "bits": 4}]', "reuse.measure=false")  # fmt: skip
    result, shown = bench(*words)
    assert [(row["arm"], row["seed"], row["epochs"]) for row in result.rows] == [
        (arm, seed, 4 if arm == "reuse" else 3)
        for seed in (0, 1)
        for arm in ("dense", "dense@bf16", "reuse", "reuse@bf16")
    ]
    for row in result.rows:
        assert row["network"] == "tiny" and row["data"] == "slice" and 0 <= row["final_accuracy"] <= 1
        assert row["train_s"] > 0 and row["step_s"] > 0 and row["peak_bytes"] > 0 and row["data_s"] >= 0
        assert len(row["curve"]) == row["epochs"] and row["curve"][-1] == [row["train_s"], row["final_accuracy"]]
        assert bool(row["settings"]) == row["arm"].startswith("reuse")
    assert {"target_accuracy", "saved_vs_fp32", "saved_vs_best", "accuracy_delta"} <= set(result.summary["tiny/slice"])
    lines = [line.split()[:2] for line in shown.splitlines() if "/3" in line or "/4" in line]
    assert lines[:5] == [
        ["dense", "1/3"],
        ["dense@bf16", "1/3"],
        ["reuse", "1/4"],
        ["reuse@bf16", "1/3"],
        ["dense", "2/3"],
    ]

    kept = sorted(path.name for path in (tmp_path / "runs").rglob("*.pt"))
    assert kept == ["last.pt"] * 8, "of each training the last checkpoint"

    again, shown = bench(*words)
    assert "8 of 8 trainings are done already" in shown and "1/3" not in shown
    assert again.rows == result.rows and again.summary == result.summary
    anew, shown = bench(*words, "fresh=true")
    assert "already" not in shown and [row["curve"][-1][1] for row in anew.rows] == [
        row["curve"][-1][1] for row in result.rows
    ]


def test_auto_tries_within_its_time_and_is_told_of(bench, tmp_path: Path) -> None:
    result, shown = bench("networks=tiny/slice", "arms=dense,auto", "seeds=1", "epochs=1")
    dense, auto = result.rows
    assert dense["plan_s"] == 0.0 and dense["choice"] is None
    assert 0 < auto["plan_s"] < auto["train_s"] and auto["choice"] in ("dense", "dense@bf16", "reuse", "reuse@bf16")
    assert auto["curve"][-1][0] == auto["train_s"]
    found = result.summary["tiny/slice"]
    assert found["auto_vs_dense"] == pytest.approx(auto["train_s"] / dense["train_s"])
    assert f"tiny/slice: auto chose {auto['choice']} in" in shown and "times the seconds of the best other arm" in shown


def test_rows_of_other_networks_are_kept(bench) -> None:
    first, _ = bench("networks=tiny/slice", "arms=dense", "seeds=1", "epochs=1")
    earlier = {"bench": "reuse-training", "rows": first.rows, "settings": first.settings}
    both, _ = bench("networks=other/slice", "arms=dense", "seeds=1", earlier=earlier)
    assert [(row["network"], row["data"]) for row in both.rows] == [("tiny", "slice"), ("other", "slice")]
    assert set(both.summary) == set(both.settings["networks"]) == {"tiny/slice", "other/slice"}
    replaced, _ = bench("networks=tiny/slice", "arms=dense", "seeds=2", "epochs=1", earlier=earlier)
    assert [row["seed"] for row in replaced.rows] == [0, 1]


def test_an_arm_that_diverges_does_not_end_the_others(bench, monkeypatch) -> None:
    bad = Course("tiny_nets:turns_bad", SLICE, epochs=3)
    monkeypatch.setattr(reuse_training, "COURSES", {"bad/slice": bad})
    result, _ = bench("arms=dense,dense@bf16", "seeds=1", "batch_size=4")
    assert [row["final_accuracy"] for row in result.rows] == [None, None]
    assert all("loss of step" in row["message"] for row in result.rows)
    assert result.summary["bad/slice"]["target_accuracy"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("networks=tiny/sliec",), "choose among tiny/slice, other/slice"),
        (("seeds=0",), "1 seed or more"),
        (("epochs.dnese=3",), "name one of dense"),
        (("epochs.dense=many",), "a whole number"),
        (("lsh.tables=3",), "no arm uses lsh"),
        (("arms=dense", "reuse.fixed=true"), "no arm uses reuse"),
        (("arms=dense,nosuch",), "nosuch"),
        (("epochs=0",), "epochs"),
    ],
)
def test_choices_that_cannot_be_meant(bench, tmp_path: Path, options, said) -> None:
    with pytest.raises(UsageError, match=said):
        bench(*options)
    assert not list((tmp_path / "runs").rglob("last.pt"))


def test_a_missing_set_is_told_of(bench, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reuse_training, "COURSES", {"a/b": Course("cifarnet", str(tmp_path / "none"), epochs=1)})
    with pytest.raises((DataError, UsageError)):
        bench("arms=dense")


def test_a_file_of_another_benchmark_is_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert read_earlier(path, "reuse-training") is None
    for text in ('{"bench": "other", "rows": []}', "[]", "{", '{"bench": "reuse-training"}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="holds no result of reuse-training"):
            read_earlier(path, "reuse-training")
    path.write_text('{"bench": "reuse-training", "rows": []}')
    assert read_earlier(path, "reuse-training") == {"bench": "reuse-training", "rows": []}


SCRIPT = """
from thrifty.bench import reuse_training
from thrifty.cli.main import main
reuse_training.COURSES = {"tiny/slice": reuse_training.Course("tiny_nets:net", "fashion-mnist-slice", epochs=2)}
main()
"""


def test_a_killed_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    support = Path(__file__).parents[1] / "support"

    def call(out: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [
            "arms=dense,reuse",
            "seeds=1",
            'reuse.stages=[{"length": 8, "bits": 4}]',
            "reuse.measure=false",  # or seconds decide how layers compute, and two runs differ in the last bits
            *SMALL,
            f"out={tmp_path / out}",
        ]
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, "bench", "reuse-training", "--json", str(tmp_path / f"{out}.json"),
             *(word for option in words for word in ("--set", option))],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(support), **environment},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    assert call("whole").returncode == 0
    killed = call("broken", **{tiny_nets.KILL_AT: "13"})  # in the third turn: five steps an epoch, two arms
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "broken.json").exists()
    interrupted = call("broken", **{tiny_nets.SIGNAL_AT: "2"})
    assert interrupted.returncode == 130 and "the same command goes on" in interrupted.stdout
    assert call("broken").returncode == 0
    whole, broken = (json.loads((tmp_path / f"{out}.json").read_text())["rows"] for out in ("whole", "broken"))
    assert [row["final_accuracy"] for row in whole] == [row["final_accuracy"] for row in broken]
    for a, b in zip(whole, broken, strict=True):
        one, other = tmp_path / "whole" / "tiny-slice" / a["folder"], tmp_path / "broken" / "tiny-slice" / b["folder"]
        losses = f"losses/{a['arm']}.npy"
        assert (one / losses).read_bytes() == (other / losses).read_bytes(), a["arm"]
