"""The benchmark on sequences: what a row says, on a tiny network."""

import io

import pytest
import torch
from rich.console import Console

from thrifty.bench import reuse_sequences
from thrifty.bench.registry import load
from thrifty.bench.reuse_sequences import verdict
from thrifty.bench.sequence_cases import CASES, CONTROL, CONTROL_NAME, EXACT, Case, Loaded, language_model
from thrifty.core.errors import DataError


def tokens(root):
    def batch(seed):
        drawn = torch.randint(7, (12, 4), generator=torch.Generator().manual_seed(seed))
        return drawn[:-1], drawn[1:].reshape(-1)

    def forever():
        seed = 0
        while True:
            yield batch(seed)
            seed += 1

    return Loaded("tokens drawn at random", forever, [batch(-1)], 7, 7)


WAYS = {CONTROL_NAME: CONTROL, "equal rows": EXACT, "clusters": {"sequences": "clusters"}}


@pytest.fixture
def cases(monkeypatch):
    def missing(root):
        raise DataError("no such data")

    found = [
        Case(f"{kind} 16", "tokens", metric, tokens, language_model(kind, 16), WAYS, (20, 8))
        for kind, metric in (("LSTM", "perplexity"), ("GRU", "accuracy"))
    ]
    monkeypatch.setattr(
        reuse_sequences, "CASES", (*found, Case("GRU", "absent", "accuracy", missing, None, {}, (1, 1)))
    )


def test_rows_and_summary(cases):
    console = Console(file=io.StringIO())
    result = load("reuse-sequences").run(quick=True, console=console)
    assert "left out: GRU on absent: no such data" in console.file.getvalue()
    assert [row["changed"] for row in result.rows] == [*WAYS] * 2
    assert set(result.columns) <= set(result.rows[0])
    for control, equal, clusters in (result.rows[:3], result.rows[3:]):
        assert control["macs_ratio"] == 1 and equal["macs_ratio"] < 1
        assert equal["remaining_ratio"] <= 7 / 44 and equal["error"] == 0 <= clusters["error"]
        assert control["loss"] == pytest.approx(control["dense_loss"], rel=1e-4)
        assert equal["loss"] == pytest.approx(equal["dense_loss"], rel=1e-4)
        assert equal["quality"] == pytest.approx(equal["dense_quality"], rel=1e-3)
        assert all(row["dense_step_s"] / row["reuse_step_s"] == row["speedup"] for row in (control, equal, clusters))
    assert result.summary["rows"] == 4
    assert result.summary["min_speedup"] <= result.summary["median_speedup"]


def test_data_that_are_asked_for_must_be_there(cases, tmp_path):
    with pytest.raises(DataError):
        load("reuse-sequences").run(quick=True, console=Console(file=io.StringIO()), data_root=tmp_path)


@pytest.mark.parametrize(
    ("speedup", "loss", "said"),
    [(1.5, 1.0, "wins"), (1.5, 1.5, "worse"), (1.01, 1.0, "even"), (0.9, 0.5, "slower"), (2.0, float("nan"), "worse")],
)
def test_verdicts(speedup, loss, said):
    assert verdict(speedup, loss, 1.0) == said


def test_every_way_is_a_config():
    for case in CASES:
        for settings in case.settings.values():
            assert reuse_sequences.reuse(settings).fixed
