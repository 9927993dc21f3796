"""`thrifty simulate` and `thrifty plan --distributed`: tables, files, and one line for a mistake."""

import json
import subprocess
import sys

import pytest

from thrifty.cli import main as cli
from thrifty.core.errors import UsageError
from thrifty.distributed.published import RACES
from thrifty.distributed.units import parse_bandwidth, parse_seconds


def run(capsys, *words):
    with pytest.raises(SystemExit) as left:
        cli.main(list(words))
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


def test_resnet50_at_2048_workers(capsys, tmp_path):
    words = ["--workers", "32,2048", "--bandwidth", "100Gbit", "--latency", "2us", "--gradient", "fp16"]
    code, out, _ = run(capsys, "simulate", *words, "--out", str(tmp_path))
    assert code == 0
    assert "published: 87.9% at 2048 workers" in out and "network: 12.5 GB/s each way, 2.00 us a message" in out
    found = json.loads((tmp_path / "simulate.json").read_text())
    at = {(row["workers"], row["algorithm"], row["rule"]): row["efficiency"] for row in found["rows"]}
    assert at[2048, "hierarchical", "optimal"] >= 0.95
    assert at[2048, "ring", "per-tensor"] < 0.5
    assert len(found["races"]) == len(RACES)
    for race in found["races"]:
        assert race["same_ranking"]
        fitted = {rule: race["published_per_s"][rule] for rule in race["fitted"]}
        assert {rule: race["simulated_per_s"][rule] for rule in fitted} == pytest.approx(fitted, rel=1e-3)
        assert race["simulated_per_s"]["optimal"] >= max(race["simulated_per_s"].values()) * (1 - 1e-9)
    assert (tmp_path / "scaling.svg").read_text().startswith("<?xml")
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"


def test_uneven_workers_from_a_small_network(capsys, tmp_path):
    pytest.importorskip("simpy")
    words = ["--model", "cifarnet", "--image-size", "32", "--workers", "1,8", "--algorithm", "ring", "--jitter", "0.2",
             "--stragglers", "0.1", "--steps", "5", "--compute", "10ms", "--rule", "optimal,single,dear"]  # fmt: skip
    code, out, _ = run(capsys, "simulate", *words, "--out", str(tmp_path))
    assert code == 0 and "jitter 0.2" in out and "32 GPUs" not in out
    rows = json.loads((tmp_path / "simulate.json").read_text())["rows"]
    assert [row["rule"] for row in rows] == ["optimal", "single", "dear"] * 2
    of = {(row["workers"], row["rule"]): row for row in rows}
    assert of[8, "optimal"]["uneven_step_s"] > of[8, "optimal"]["step_s"]
    assert of[8, "dear"]["uneven_step_s"] is None


@pytest.mark.parametrize(
    "words, message",
    [
        (["--workers", "many"], "--workers many: write a number such as 2048, or a list"),
        (["--workers", "9999"], "numbers of workers go from 1 to 4096"),
        (["--bandwidth", "fast"], "'fast' is no bandwidth: write it as 100Gbit"),
        (["--latency", "2"], "'2' is no time: write it as 2us"),
        (["--gradient", "fp8"], "--gradient fp8: choose one of fp32, fp16, bf16"),
        (["--algorithm", "tree"], "no all-reduce is called 'tree'"),
        (["--rule", "best"], "no rule is called 'best'"),
        (["--model", "lenet"], "unknown model 'lenet'"),
        (["--batch", "0"], "a batch has at least one image"),
        (["--jitter", "-1"], "jitter is 0 or more"),
        (["--in-flight", "3"], "transfers in flight are 1 or 2, got 3"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, message):
    small = [] if "--model" in words else ["--model", "cifarnet", "--image-size", "32"]
    code, _, err = run(capsys, "simulate", "--workers", "2", *small, *words)
    assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_profile_that_is_none(capsys, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    for path, message in ((tmp_path / "plan.json", "holds no saved plan"), (tmp_path / "absent", "cannot be read")):
        code, _, err = run(capsys, "simulate", "--profile", str(path))
        assert code == 1 and message in err


def test_plan_needs_torchrun(capsys, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run(capsys, "plan", "--distributed")
    assert code == 2 and "start the processes with torchrun" in err
    assert "--saved keeps the plan of --distributed" in run(capsys, "plan", "--saved", "plan.json")[2]
    assert "--input 3: write it as channels,height,width" in run(capsys, "plan", "--distributed", "--input", "3")[2]


def test_a_plan_under_torchrun_is_saved_and_simulated(capsys, tmp_path):
    saved = tmp_path / "plan.json"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "thrifty"]
    words += ["plan", "--distributed", "--model", "cifarnet", "--input", "3,32,32", "--batch", "2", "--classes", "10"]
    done = subprocess.run([*words, "--saved", str(saved)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predicted end of the last transfer") == 1  # one of the two reports
    code, out, _ = run(capsys, "simulate", "--profile", str(saved), "--workers", "4", "--algorithm", "ring")
    assert code == 0 and f"measured, {saved}" in out.replace("\n", "")


def test_units():
    assert parse_bandwidth("100Gbit") == parse_bandwidth("12.5 GB/s") == 12.5e9
    assert parse_bandwidth("1.5 gbit/s") == parse_bandwidth("1500Mbps") == 187.5e6
    assert parse_seconds("2us") == 2e-6 and parse_seconds("0.5 ms") == 5e-4 and parse_seconds("1e-3s") == 1e-3
    for text in ("", "Gbit", "-1Gbit", "0Gbit", "1 parsec"):
        with pytest.raises(UsageError, match="is no bandwidth"):
            parse_bandwidth(text)
    for text in ("", "us", "-1us", "1 min"):
        with pytest.raises(UsageError, match="is no time"):
            parse_seconds(text)
