"""The part of the page on plan, memory and bytes: what was promised beside what was measured, where it was recorded."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from thrifty.report import load, table
from thrifty.report.costs import costs, promises, told
from thrifty.report.record import parse


def cells(page: str, key: str) -> list[list[str]]:
    """Text of the body cells of the table with this caption id, by row."""
    start = page.index(f'id="{key}"')
    body = page[page.index("<tbody>", start) : page.index("</tbody>", start)]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_the_plan_stands_beside_what_was_measured(report_page: Callable[[str], Path]) -> None:
    page = report_page("planned").read_text(encoding="utf-8")
    assert '<a href="#costs">Plan, memory and bytes</a>' in page
    # 5 epochs of 2.42 s and of 2.05 s, 940 steps each.
    dense, auto = cells(page, "plan-table")
    assert dense == ["dense", "dense", "12.8 ms", "12.9 ms", "1.01x", "1x", "1x"]
    assert auto == ["auto", "reuse@bf16", "10.2 ms", "10.9 ms", "1.07x", "1.25x", "1.18x"]
    assert "the machine was busy: a step took up to 1.7 times its shortest" in page


def test_everything_that_was_tried_is_shown(report_page: Callable[[str], Path]) -> None:
    rows = cells(report_page("planned").read_text(encoding="utf-8"), "options-table")
    assert [row[0] for row in rows] == ["dense", "reuse", "lsh", "dense@bf16", "reuse@bf16"]
    assert rows[2] == ["lsh", "-", "-", "21.0 MB", "-", "changes no layer"]
    assert [row[-1] for row in rows if row[0] != "lsh"] == ["not chosen", "not chosen", "not chosen", "chosen"]


def test_memory_and_bytes_of_every_arm(report_page: Callable[[str], Path]) -> None:
    page = report_page("planned").read_text(encoding="utf-8")
    assert cells(page, "memory-table") == [
        ["dense", "64MB", "61.0 MB", "18.8 k", "20", "398 MB"],
        ["auto", "64MB", "58.0 MB", "0", "0", "412 MB"],
    ]
    assert cells(page, "traffic-table") == [
        ["dense", "2", "bf16", "2.14 MB", "2.01 GB"],
        ["auto", "2", "bf16", "2.14 MB", "2.01 GB"],
    ]


def test_the_sentence_is_in_the_terminal_too(make_run_dir: Callable[[str], Path]) -> None:
    record = load(make_run_dir("planned"))
    console = Console(width=200, file=io.StringIO())
    console.print(table(record))
    said = (
        "The plan chose reuse@bf16 and expected 10.2 ms a step, 1.25x as fast as dense; in training a step took "
        "10.9 ms, 1.18x as fast."
    )
    assert told(record) == said and said in console.file.getvalue()


@pytest.mark.parametrize("kind", ["whole", "several", "unfinished", "stopped", "empty"])
def test_a_run_without_them_has_no_such_part(report_page: Callable[[str], Path], kind: str) -> None:
    assert "costs" not in report_page(kind).read_text(encoding="utf-8")


def test_parts_that_are_not_recorded_are_left_out() -> None:
    def made(**more: Any) -> str:
        found = costs(parse({"arms": [{"name": "dense", "steps": 4, **more}]}))
        return "" if found is None else str(found)

    assert made() == "" and made(workers=1, sent_bytes=0) == "" and made(workers=2) == ""
    assert "traffic-table" in made(workers=2, sent_bytes=8)
    assert "memory-table" not in made(workers=2, sent_bytes=8)
    assert "memory-table" in made(memory={}) and "plan-table" not in made(memory={})


def test_a_plan_before_any_step_promises_and_tells_nothing_yet() -> None:
    option = {"name": "dense", "step_s": 0.5, "speedup": 1.0}
    record = parse({"arms": [{"name": "auto", "methods": []}], "plan": {"best": "dense", "options": [option]}})
    (one,) = promises(record)
    assert one.ratio is None and one.speedup is None and told(record) == ""
    assert str(costs(record)).count("<table") == 2
    assert promises(parse({"arms": [{"name": "auto"}], "plan": {"best": "gone", "options": []}})) == []


def test_a_damaged_plan_is_named() -> None:
    record = parse({"plan": {"best": 3, "options": [{"step_s": "x"}]}, "arms": [{"memory": 7}]})
    assert record.problems == (
        "run.arms[0].memory is not an object",
        "run.plan.best is not text",
        "run.plan.options[0].step_s is not a number",
    )
    assert costs(record) is not None
