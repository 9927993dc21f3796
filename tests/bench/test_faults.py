"""The drills: some tries of every fault lose nothing, and a fault that did would be counted."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from thrifty.bench import fault_drill, fault_group, fault_runs, faults
from thrifty.bench.registry import load
from thrifty.core.errors import CheckpointError, UsageError
from thrifty.train import checkpoint


def bench(*options: str):
    return load("faults").run(quick=True, console=Console(file=io.StringIO()), options=options)


def test_nothing_is_lost_wrong_or_unclear():
    result = bench("tries=2", "seed=1")
    assert [row["fault"] for row in result.rows] == list(faults.FAULTS)
    for row in result.rows:
        assert row == {"fault": row["fault"], "tries": 2, "lost": 0, "wrong": 0, "unclear": 0}
    assert result.summary == {"tries": 2 * len(faults.FAULTS), "lost": 0, "wrong": 0, "unclear": 0}


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> fault_drill.Drill:
    return fault_drill.Drill(tmp_path_factory.mktemp("drill"), tries=1, seed=0)


def test_a_step_that_was_said_to_be_saved_and_is_not_counts_as_lost(drill):
    settings = drill.settings("liar")
    told = fault_runs.complete(settings, drill.answer, fault_runs.Limits(kill_at=5))
    out = Path(settings["out"])
    assert told.code == -9 and fault_runs.saved_steps(out, "reuse") == 4
    losses = out / "losses" / "reuse.npy"
    np.save(losses, np.append(np.load(losses), 1.0))
    drill.count = fault_drill.Count()
    drill.judge_resumed(settings, fault_runs.saved_steps(out, "reuse"))
    assert vars(drill.count) == {"tries": 0, "lost": 1, "wrong": 0, "unclear": 0}


def test_other_weights_count_as_wrong(drill):
    settings = drill.settings("other", seed=1)
    fault_runs.complete(settings, drill.answer, fault_runs.Limits(kill_at=5))
    drill.count = fault_drill.Count()
    drill.judge_resumed(settings, 4)
    assert vars(drill.count) == {"tries": 0, "lost": 0, "wrong": 1, "unclear": 0}


def test_a_lost_worker_is_told_by_the_other_and_the_restarted_group_goes_on(drill):
    settings = drill.settings("group", worker_timeout=60.0)
    whole, _ = drill.whole(settings, group=True)
    lines = []
    for attempt in (0, 1):
        kill = (1, 0.0) if attempt == 0 else None
        lines.append(fault_group.complete_group(settings, drill.folder, attempt=attempt, kill=kill))
    (survivor, killed), again = lines
    assert (survivor.code, killed.code) == (1, -9) and "\n" not in survivor.message and survivor.message
    assert [told.code for told in again] == [0, 0]
    assert fault_runs.outcome(Path(settings["out"]), "reuse") == whole


def test_a_process_can_be_killed_while_it_writes_its_tables(drill):
    settings = drill.settings("tables", "lsh")
    told = fault_runs.complete(settings, drill.answer, fault_runs.Limits(kill_in_update=(3, 1e-5)))
    assert told.code == -9 and fault_runs.saved_steps(Path(settings["out"]), "lsh") == 4
    drill.count = fault_drill.Count()
    drill.judge_resumed(settings, 4)
    assert vars(drill.count) == {"tries": 0, "lost": 0, "wrong": 0, "unclear": 0}


def test_a_mistake_of_the_user_is_a_line_and_an_end_without_one_counts(drill):
    told = fault_runs.complete(drill.settings("bug", model="thrifty.bench.fault_net:nothing"), drill.answer)
    assert told.code == 1 and "has no 'nothing'" in told.message
    drill.count = fault_drill.Count()
    for code in (0, 1, -9, 2):
        drill.judge_end(code)
    assert drill.count.unclear == 1


def test_cuts_shorten_and_flips_do_not():
    draw, content = random.Random(0), bytes(range(40))
    for _ in range(50):
        assert len(fault_runs.flip(content, draw)) == 40
        assert content.startswith(fault_runs.cut(content, draw)) and len(fault_runs.cut(content, draw)) < 40


def test_options_are_checked():
    with pytest.raises(UsageError, match="no fault is called 'flood'"):
        bench("faults=flood")


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"step": 1}, identity={})

    def full(value, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\): make room"):
        checkpoint.save(tmp_path, {"step": 2}, identity={})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path)[0] == {"step": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt"]
