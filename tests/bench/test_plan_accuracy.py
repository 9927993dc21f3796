"""plan-accuracy end to end on a tiny network."""

import io

import pytest
from rich.console import Console

from thrifty.bench import plan_accuracy
from thrifty.bench.registry import load
from thrifty.core.errors import UsageError


def test_predictions_stand_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan_accuracy.CASES, "tiny_nets:net/fashion-mnist-slice", None)
    options = ["networks=tiny_nets:net/fashion-mnist-slice", "steps=4", "batch_size=8", "budget_s=0.01"]
    result = load("plan-accuracy").run(quick=True, console=Console(file=io.StringIO()), options=options)
    words = [row["what"].split()[1] for row in result.rows]
    assert words[:3] == ["dense", "reuse", "dense@bf16"]
    for row in result.rows:
        assert row["predicted"] > 0 and row["measured"] > 0
        assert row["error"] == pytest.approx(abs(row["predicted"] / row["measured"] - 1))
        assert row["fastest"] in words and row["chosen"] in words
    fastest = min(result.rows, key=lambda row: row["measured"])
    assert fastest["what"].split()[1] == fastest["fastest"]
    assert result.summary["median_error"] <= result.summary["largest_error"]


@pytest.mark.parametrize("word", ["networks=none/such", "steps=0", "reuse.length=8"])
def test_choices_that_cannot_be(word: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        load("plan-accuracy").run(quick=True, console=Console(file=io.StringIO()), options=[word])
