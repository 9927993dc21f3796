"""Several workers train one model: shards, one report, checkpoints for any number of them, restarts, and bad input."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_nets
import torch
import train_checks
from ranks import run_ranks

from thrifty.core.errors import CheckpointError, DistributedError, UsageError
from thrifty.distributed.workers import ALONE, joined
from thrifty.train import TrainConfig, load_weights, run, sharded

REUSE = ("reuse.patience=3", "reuse.smoothing_steps=2", 'reuse.stages=[{"length":8,"bits":4}]')


@pytest.fixture(scope="module")
def configs(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")

    def make(name: str, **settings) -> TrainConfig:
        small = {
            "model": "tiny_nets:net", "data": str(image_folder), "out": str(folder / name), "epochs": 3,
            "batch_size": 8, "checkpoint_every": 4, "threads": 1, "methods": "none", "worker_timeout": 60.0,
        }  # fmt: skip
        return TrainConfig(**{**small, **settings})

    plain = {"model": "tiny_nets:plain", "batch_size": 7}  # uneven shares: 4 and 3 images
    made = {
        "plain": make("plain", **plain),
        "alone": make("alone", **plain),
        "whole": make("whole", amp="bf16"),
        "broken": make("broken", amp="bf16"),
        "damaged": make("damaged", amp="bf16"),
        "for one": make("for-one", **plain),
        "by one": make("by-one", **plain),
        "wire": make("wire", wire="bf16", **plain),
        "planned": make("planned", plan="measure", amp="bf16"),
        "planned from file": make("from-file", plan=str(folder / "planned" / "plans" / "dense.json"), amp="bf16"),
        "turns bad": make("turns-bad", model="tiny_nets:turns_bad"),
        "unused": make("unused", model="tiny_nets:unused"),
        "reuse": make("reuse", methods="reuse", baseline="none", settings=REUSE),
    }
    return folder, made


@pytest.fixture(scope="module")
def found(configs):
    """What two workers found, by rank; one of them alone begins the run that they go on with."""
    folder, made = configs
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tiny_nets.SIGNAL_AT, "10")
        patch.setattr(tiny_nets._SignalAt, "steps", 0)
        assert run(made["by one"]).exit_code == 130
    assert run(made["alone"]).exit_code == 0
    return run_ranks(2, train_checks.everything, str(folder), made)


def losses(config):
    return np.load(Path(config.out) / "losses" / "dense.npy")


def record(config):
    return json.loads((Path(config.out) / "result.json").read_text())


def arm(config):
    return record(config)["arms"][0]


def same_weights(a, b):
    one, other = load_weights(a.out), load_weights(b.out)
    return list(one) == list(other) and all(
        one[key].stride() == other[key].stride() and torch.equal(one[key], other[key]) for key in one
    )


def test_two_workers_train_what_one_does(configs, found):
    _, made = configs
    assert [of_rank["plain"]["code"] for of_rank in found] == [0, 0]
    np.testing.assert_allclose(losses(made["plain"]), losses(made["alone"]), rtol=1e-5)
    one, other = arm(made["alone"]), arm(made["plain"])
    assert other["workers"] == 2 and one["workers"] == 1
    assert [row["train_accuracy"] for row in other["epochs"]] == [row["train_accuracy"] for row in one["epochs"]]
    assert [row["test_accuracy"] for row in other["epochs"]] == [row["test_accuracy"] for row in one["epochs"]]
    assert (other["samples"], other["macs"]) == (one["samples"], one["macs"])


def test_bytes_on_the_wire_are_counted(configs, found):
    _, made = configs
    alone, plain, wire, whole, resumed = (arm(made[name]) for name in ("alone", "plain", "wire", "whole", "broken"))
    # Of two, each sends half of its gradients to be added up, and half of the sums back.
    assert alone["sent_bytes"] == 0
    assert plain["sent_bytes"] == plain["steps"] * 4 * plain["parameters"]
    assert wire["sent_bytes"] == wire["steps"] * 2 * wire["parameters"]
    assert resumed["sent_bytes"] == whole["sent_bytes"] > 0


def test_gradients_travel_in_the_buckets_of_the_plan_and_the_record_says_so(configs, found):
    _, made = configs
    assert [of_rank["planned"]["code"] for of_rank in found] == [0, 0]
    assert "buckets, by the merge plan" in found[0]["planned"]["shown"]
    planned, own = arm(made["planned"])["buckets"], arm(made["plain"])["buckets"]
    assert planned["rule"] == "optimal" and planned["differences"] == []
    assert planned["bytes"] == planned["planned_bytes"] and planned["predicted_s"] > 0
    assert sum(planned["bytes"]) == 4 * arm(made["planned"])["parameters"]
    assert own["rule"] == "ddp-default" and own["planned_bytes"] is None and sum(own["bytes"]) > 0
    assert arm(made["alone"])["buckets"] is None
    # The mean of two gradients is the same in any buckets.
    assert losses(made["planned"]).tobytes() == losses(made["whole"]).tobytes()


def test_a_plan_in_a_file_is_used_again_by_a_resumed_run_too(configs, found):
    _, made = configs
    assert [of_rank["planned, resumed"]["code"] for of_rank in found] == [0, 0]
    assert all(of_rank["plan used again"] for of_rank in found)
    assert losses(made["planned from file"]).tobytes() == losses(made["planned"]).tobytes()


def test_only_one_reports(found):
    first, second = (of_rank["plain"] for of_rank in found)
    assert first["reports"] and "2 workers share each batch of 7 images" in first["shown"]
    assert first["shown"].count("dense") >= 4
    assert not second["reports"] and second["shown"] == ""


def test_a_signal_to_one_stops_all_after_the_same_step(found):
    assert [of_rank["interrupted"]["code"] for of_rank in found] == [130, 130]
    assert "interrupted after step 10 of 21" in found[0]["interrupted"]["shown"]


def test_an_interrupted_run_continues_bit_for_bit(configs, found):
    _, made = configs
    assert found[0]["whole"]["code"] == found[0]["resumed"]["code"] == 0
    assert "going on after step 10 of 21" in found[0]["resumed"]["shown"]
    assert losses(made["broken"]).tobytes() == losses(made["whole"]).tobytes()
    assert same_weights(made["broken"], made["whole"])


def test_a_damaged_newest_checkpoint_falls_back_loudly_to_the_one_before(configs, found):
    _, made = configs
    assert [of_rank["resumed after damage"]["code"] for of_rank in found] == [0, 0]
    shown = found[0]["resumed after damage"]["shown"]
    assert "warning: " in shown and "is damaged in __1_" in shown and "going on from previous" in shown
    assert "going on after step 8 of 21" in shown
    assert losses(made["damaged"]).tobytes() == losses(made["whole"]).tobytes()


def test_a_checkpoint_is_for_any_number_of_workers(configs, found, capsys):
    _, made = configs
    alone = losses(made["alone"])
    assert [of_rank["begun by one"]["code"] for of_rank in found] == [0, 0]
    shown = found[0]["begun by one"]["shown"]
    assert "begun with 1 worker and goes on with 2" in shown and "going on after step 10 of 24" in shown
    np.testing.assert_allclose(losses(made["by one"]), alone, rtol=1e-5)
    assert found[0]["interrupted for one"]["code"] == 130
    assert run(dataclasses.replace(made["for one"], resume=True)).exit_code == 0
    shown = capsys.readouterr().out
    assert "begun with 2 workers and goes on with 1" in shown and "going on after step 10 of 24" in shown
    np.testing.assert_allclose(losses(made["for one"]), alone, rtol=1e-5)


def test_a_run_in_sixteen_bits_on_the_wire_stays_close(configs, found):
    _, made = configs
    assert [of_rank["wire"]["code"] for of_rank in found] == [0, 0]
    np.testing.assert_allclose(losses(made["wire"]), losses(made["alone"]), rtol=0.02)
    assert losses(made["wire"]).tobytes() != losses(made["plain"]).tobytes()


def test_a_loss_that_is_not_finite_stops_all(found):
    for of_rank in found:
        assert of_rank["turns bad"]["code"] == 1
    assert "the loss of step 7 is nan" in found[0]["turns bad"]["shown"]


@pytest.mark.parametrize(
    ("what", "messages"),
    [
        ("few images", ["UsageError: a step has 1 images for 2 workers: raise --batch-size, or start fewer"] * 2),
        (
            "other seed",
            ["DistributedError: worker 1 differs from worker 0 in seed", "DistributedError: worker 0 differs from"],
        ),
        ("no data on one", ["DistributedError: worker 1 of 2 stopped: ", "Error: .*images"]),
        ("not empty", ["UsageError: .*is not empty"] * 2),
        ("unused", ["ModelError: the parameter 'spare.weight' took no part in the loss"] * 2),
    ],
)
def test_bad_input_is_told_by_every_worker(found, what, messages):
    import re

    for of_rank, message in zip(found, messages, strict=True):
        assert re.search(message, of_rank[what]["error"]), of_rank[what]
        assert "\n" not in of_rank[what]["error"]


def test_controllers_move_together_by_what_both_measured(found):
    first, second = (of_rank["events"] for of_rank in found)
    assert first == second
    assert any(event["what"].startswith("stage 0 -> exact") for event in first)


def test_gradients_of_reuse_are_those_of_the_mean_of_the_approximate_losses(found):
    assert all(of_rank["reuse gradients"] < 1e-5 for of_rank in found)


def test_a_worker_that_is_lost_while_a_checkpoint_is_written_is_told(tmp_path, monkeypatch):
    def gone(*arguments, **keywords):
        raise RuntimeError("[pair.cc:537] Read error: Connection reset by peer\nand more")

    monkeypatch.setattr(sharded.dcp, "save", gone)
    with pytest.raises(DistributedError, match=r"a worker was lost during the writing of a checkpoint \(.*by peer\)"):
        sharded.save(tmp_path, {"x": torch.ones(2)}, {}, identity={}, workers=ALONE)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_a_folder_of_two_never_runs_code(configs, found, tmp_path, monkeypatch):
    import pickle
    import shutil

    _, made = configs
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copytree(Path(made["whole"].out) / "checkpoints" / "dense" / "last", tmp_path / "last"))
    (path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"names pathlib.* which no checkpoint does|is damaged"):
        sharded.read(path, 0)
    assert not Path("evil").exists()
    with pytest.raises(CheckpointError, match=r"damaged in \.metadata"):
        sharded.check(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="truncated, damaged or no checkpoint"):
        sharded.check(path)


def torchrun(*words, restarts=0, **environment):
    support = str(Path(__file__).parents[1] / "support")
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--max-restarts", str(restarts), "-m", "thrifty", *words],
        env={**os.environ, "PYTHONPATH": support, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_torchrun_restarts_a_killed_group_which_ends_as_an_unbroken_one(configs, found, tmp_path):
    _, made = configs
    asked = dataclasses.replace(made["whole"], out=str(tmp_path / "killed"))
    words = [
        "train", "--model", asked.model, "--data", asked.data, "--out", asked.out, "--epochs", "3", "--batch-size", "8",
        "--checkpoint-every", "4", "--threads", "1", "--methods", "none", "--amp", "bf16",
    ]  # fmt: skip
    # The 14th step is killed; the newest checkpoint is that of step 12, so that the new worker never does 14 steps.
    done = torchrun(*words, restarts=1, **{tiny_nets.KILL_AT: "14", tiny_nets.RANK: "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a worker was lost" in done.stderr
    assert done.stdout.count("going on after step 12 of 21") == 1
    assert done.stdout.count("report: ") == 1
    assert record(asked)["status"] == "finished" and len(record(asked)["resumed"]) == 1
    assert losses(asked).tobytes() == losses(made["whole"]).tobytes()
    assert same_weights(asked, made["whole"])


def test_a_world_of_one_is_no_group(monkeypatch):
    with joined() as workers:
        assert workers is ALONE
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with joined() as workers:
        assert workers is ALONE
    assert ALONE.sum([1.0, 2.0]) == [1.0, 2.0] and ALONE.gather("x") == ["x"]
    assert ALONE.only_first(lambda: 3) == ALONE.everywhere(lambda: 3) == 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 are set, and name no worker"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "name no worker"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "is set but not MASTER_PORT"),
    ],
)
def test_variables_that_cannot_be_meant(monkeypatch, variables, message):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), joined():
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_in_use_and_an_unreachable_master(monkeypatch, rank):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if rank == 1:
            taken.close()  # nobody is there
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)):
            monkeypatch.setenv(name, str(value))
        message = "port .* is in use" if rank == 0 else "the master at 127.0.0.1:.* did not answer within 2 s"
        with pytest.raises(DistributedError, match=message) as caught, joined(timeout_s=2.0):
            pass
        assert "\n" not in str(caught.value)
