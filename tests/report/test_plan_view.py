"""A plan as a table, as a sentence and as a picture; names are texts, never markup."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from thrifty.compose.layer_costs import LayerCost
from thrifty.compose.planning import Option, Plan, PlannedLayer
from thrifty.report.plan_plot import draw
from thrifty.report.plan_table import plan_table, verdict


def made(best: str, layers: int = 3) -> Plan:
    options = (
        Option("dense", (), "none", 0.2, 1.0, 4_000_000, 0.0),
        Option("reuse[bold]", (), "none", 0.1, 2.0, 3_000_000, 1e-6, 2),
        Option("lsh", (), "none", reason="it changes no layer of this model"),
    )
    planned = tuple(
        PlannedLayer(LayerCost(f"features.{i}", "Conv2d", 0.01 * i, 0.02 * i, 1000, 400), {"reuse": "changed"},
                     {"reuse": 0.001})
        for i in range(layers)
    )  # fmt: skip
    return Plan(options, planned, best, 0.1, 400, 7)


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(plan_table(plan))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_says_what_was_tried_and_what_to_do() -> None:
    text = shown(made("reuse[bold]"))
    assert "Measured in 7 steps each" in text
    assert "reuse[bold]" in text and "best" in text
    assert "it changes no layer of this model" in text
    assert "Use reuse[bold]: a step takes 100 ms instead of 200 ms, 2x as fast" in text
    assert text.index("features.2") < text.index("features.1")  # the longest first


def test_staying_dense_is_said_too() -> None:
    assert verdict(made("dense")).startswith("Stay dense")


def test_reasons_to_stay_dense_are_given_once() -> None:
    layers = tuple(PlannedLayer(LayerCost(name, "Linear", 1.0), {"reuse": "dense: few rows"}) for name in "ab")
    text = shown(replace(made("dense"), layers=layers))
    assert "reuse leaves as is: a, b: few rows" in text


def test_a_busy_machine_is_told_of() -> None:
    assert "The machine was busy: a step took up to 3.0 times" in shown(replace(made("dense"), unrest=3.0))
    assert "busy" not in shown(made("dense"))


def test_layers_that_are_not_shown_are_summed_up() -> None:
    assert "and 3 layers more, 90.0 ms together" in shown(made("dense", layers=15))
    assert "layers more" not in shown(made("dense", layers=0))


@pytest.mark.parametrize(("name", "start"), [("plan.svg", b"<?xml"), ("deep/plan.png", b"\x89PNG")])
def test_the_picture_is_written(tmp_path, name: str, start: bytes) -> None:
    draw(made("dense"), tmp_path / name, title="net $x$")
    assert (tmp_path / name).read_bytes().startswith(start)
    if name.endswith("svg"):
        text = (tmp_path / name).read_text()
        assert "features.2 Conv2d" in text and "reuse[bold]" in text
