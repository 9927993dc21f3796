"""Several runs side by side: one page and one table of all their arms, each set against the baseline of its own run.

Runs that cannot be read are named with the reason; they do not keep the others from being shown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thrifty.core.atomic import write_bytes, write_text
from thrifty.core.errors import DataError, UsageError
from thrifty.report import numbers, theme, words
from thrifty.report.compare import Comparison, baseline_of, comparisons, macs_saved
from thrifty.report.markup import Html, el
from thrifty.report.plots import NARROW, PLOTS, WIDE, render
from thrifty.report.record import Arm, Record, load
from thrifty.report.sections import fact, section, table
from thrifty.report.svg import inline

_DRAWN = {"accuracy": "Test accuracy against training time", "loss": "Training loss"}
_HEADS = ("Run", "Arm", "Test accuracy", "Against its baseline", "Training", "MACs saved", "Peak memory", "Status")


@dataclass(frozen=True)
class Runs:
    """Runs to compare.

    Attributes:
        folders: where each of `records` lies.
        records: those that can be read, named so that no two are alike.
        unread: a line on each of the others.
    """

    folders: tuple[Path, ...]
    records: tuple[Record, ...]
    unread: tuple[str, ...]


def load_several(run_dirs: Sequence[str | Path]) -> Runs:
    """Read the runs in these folders. Raises DataError when none can be read, UsageError for a folder given twice."""
    folders, records, unread = [], [], []
    places = [Path(run_dir).resolve() for run_dir in run_dirs]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is named twice: name each run once")
    for given, place in zip(run_dirs, places, strict=True):
        try:
            record = load(given)
        except (DataError, UsageError) as error:
            unread.append(str(error))
            continue
        alike = sum(other.name == place.name for other in places) > 1
        records.append(replace(record, name=str(given) if alike else record.name))
        folders.append(place)
    if not records:
        raise DataError("; ".join(unread))
    return Runs(tuple(folders), tuple(records), tuple(unread))


def several_table(runs: Runs) -> RenderableType:
    """The arms of all runs for a terminal, with the outcome of each run in a sentence."""
    grid = Table(title=Text(_title(runs)), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for place, heading in enumerate(_HEADS):
        grid.add_column(heading, overflow="fold", justify="left" if place in (0, 1, 7) else "right")
    for row in _rows(runs):
        grid.add_row(*(Text(cell) for cell in row))
    told = [Text(f"{record.name}: {words.headline(record)}") for record in runs.records]
    return Group(*(Text(line, style="yellow") for line in _notices(runs)), grid, *told)


def write_several(runs: Runs, path: Path) -> Path:
    """Write the comparing page to `path`, and its plots beside it as `NAME-accuracy.svg` and the like."""
    together = _together(runs)
    drawn = {}
    for name in _DRAWN:
        wide, narrow = PLOTS[name](together, WIDE), PLOTS[name](together, NARROW)
        if wide is None or narrow is None:
            continue
        vector = render(wide, "svg")
        write_bytes(path.with_name(f"{path.stem}-{name}.svg"), vector)
        write_bytes(path.with_name(f"{path.stem}-{name}.png"), render(wide, "png"))
        drawn[name] = {"wide": vector.decode(), "narrow": render(narrow, "svg").decode()}
    write_text(path, page(runs, drawn, path.parent.resolve()))
    return path


def page(runs: Runs, drawn: dict[str, dict[str, str]], beside: Path) -> str:
    """The whole page. `drawn` holds SVG documents by plot name and layout; links are relative to `beside`."""
    folder = files("thrifty.report")
    parts = {"arms": _arms(runs, beside), "curves": _curves(runs, drawn), "differences": _differences(runs)}
    labels = {"arms": "Arms", "curves": "Curves", "differences": "What differs"}
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=el("title", f"{_title(runs)} - thrifty"),
        style=theme.css() + (folder / "page.css").read_text(encoding="utf-8"),
        header=_header(runs),
        nav=Html("\n".join(el("a", label, href=f"#{key}") for key, label in labels.items())),
        main=Html("\n".join(parts.values())),
    )


def _title(runs: Runs) -> str:
    return f"{len(runs.records)} run{'s' if len(runs.records) > 1 else ''} side by side"


def _notices(runs: Runs) -> list[str]:
    return [*runs.unread, *(f"{record.name}: {line}" for record in runs.records for line in words.notices(record))]


def _header(runs: Runs) -> Html:
    told = [el("p", f"{record.name}: {words.headline(record)}.", class_="verdict") for record in runs.records]
    notices = [el("p", line, class_="notice") for line in _notices(runs)]
    caution = "Seconds of different runs compare only where machine, threads and settings are the same: see below."
    return el("header", el("h1", _title(runs)), *notices, *told, el("p", caution, class_="small"))


def _rows(runs: Runs) -> list[list[str]]:
    rows = []
    for record in runs.records:
        found = {one.arm.name: one for one in comparisons(record)}
        baseline = baseline_of(record)
        rows += [_row(record, arm, found.get(arm.name), arm is baseline) for arm in record.arms]
    return rows


def _row(record: Record, arm: Arm, found: Comparison | None, is_baseline: bool) -> list[str]:
    against = "baseline" if is_baseline else numbers.MISSING
    if found and found.train_s_ratio:
        against = words.speed(found.train_s_ratio) + ("" if found.whole else f" at epoch {found.epoch}")
    return [
        record.name, arm.name, numbers.percent(arm.reached), against, numbers.seconds(arm.train_s),
        numbers.percent(macs_saved(arm)), numbers.size(arm.peak_bytes), words.status(arm),
    ]  # fmt: skip


def _arms(runs: Runs, beside: Path) -> Html:
    links = []
    for folder, record in zip(runs.folders, runs.records, strict=True):
        report = folder / "report.html"
        if report.exists():
            links.append(el("li", el("a", f"Report of {record.name}", href=_address(report, beside))))
    caption = "Every arm of every run. Each is set against the baseline of its own run."
    body = table("arms-table", caption, _HEADS, _rows(runs), (0, 1, 3, 7), "cards")
    return section("arms", "Arms", body, el("ul", *links) if links else None)


def _address(path: Path, beside: Path) -> str:
    from urllib.parse import quote

    return quote(os.path.relpath(path, beside).replace(os.sep, "/"))


def _together(runs: Runs) -> Record:
    """One record with the arms of all, for the plots; without a baseline, as each run has its own."""
    arms = tuple(
        replace(arm, name=f"{one.name}: {arm.name}", methods=("-",)) for one in runs.records for arm in one.arms
    )
    return replace(runs.records[0], arms=arms, summary={})


def _curves(runs: Runs, drawn: dict[str, dict[str, str]]) -> Html:
    parts = []
    for name, heading in _DRAWN.items():
        title = el("h3", heading, id=f"{name}-heading")
        if name not in drawn:
            parts.append(el("figure", title, el("p", "No epoch has been finished yet.", class_="absent")))
            continue
        alt = f"Line chart, {heading.lower()}, one line for each arm of each run. {_told(runs)}"
        images = [
            el("div", Html(inline(text, f"{name}-{layout}", alt)), class_=layout)
            for layout, text in drawn[name].items()
        ]
        parts.append(el("figure", title, el("div", *images, class_="plot"), aria_labelledby=f"{name}-heading"))
    return section("curves", "Curves", el("div", *parts, class_="plots"))


def _told(runs: Runs) -> str:
    told = [
        f"{record.name}, {arm.name}: {numbers.percent(arm.reached)} after {numbers.seconds(arm.train_s)}"
        for record in runs.records
        for arm in record.arms
        if arm.epochs
    ]
    return f"Ends: {'; '.join(told)}."


def _differences(runs: Runs) -> Html:
    """Settings and machines, as far as they are not the same in all runs."""
    facts = [{**_prefixed("machine", one.machine), **_prefixed("", one.settings)} for one in runs.records]
    keys = [key for key in dict.fromkeys(key for one in facts for key in one) if key != "machine date"]
    rows = [
        [key, *(fact(one.get(key)) for one in facts)]
        for key in keys
        if any(one.get(key) != facts[0].get(key) for one in facts)
    ]
    if not rows:
        return section("differences", "What differs", el("p", "Settings and machine are the same in all runs."))
    heads = ("Setting", *(record.name for record in runs.records))
    caption = "Settings and properties of the machine that are not the same in all runs."
    return section(
        "differences", "What differs", table("differences-table", caption, heads, rows, range(len(heads)), "wide")
    )


def _prefixed(before: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {f"{before} {key}".strip().replace("_", " "): value for key, value in facts.items()}
