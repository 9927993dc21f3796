"""The table at the end of a run, for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thrifty.report import numbers, words
from thrifty.report.compare import Comparison, baseline_of, comparisons, macs_saved
from thrifty.report.costs import told
from thrifty.report.record import Arm, Record


def table(record: Record) -> RenderableType:
    """Table of the arms with a sentence on each below it, and notices when the run is unfinished or unreadable.

    Colour only repeats what the words say. Names from the record are printed as they are, never as rich markup.
    """
    found = {one.arm.name: one for one in comparisons(record)}
    baseline = baseline_of(record)
    against = f"against {baseline.name}" if baseline else "against dense"
    grid = Table(
        title=Text(_title(record)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    grid.add_column("arm", overflow="fold")
    for heading in ("test accuracy", "train", Text(against), "MACs saved", "peak memory"):
        grid.add_column(heading, justify="right", no_wrap=isinstance(heading, Text))
    grid.add_column("status")
    for arm in record.arms:
        grid.add_row(*_row(arm, found.get(arm.name), arm is baseline))
    return Group(
        *(Text(notice, style="yellow") for notice in words.notices(record)),
        grid,
        *(Text(words.verdict(one), style=_style(one)) for one in found.values()),
        *([Text(said)] if (said := told(record)) else []),
        *([Text(words.caveat(record), style="dim")] if found else []),
        *([Text("No arm has been recorded yet.")] if not record.arms else []),
    )


def _row(arm: Arm, found: Comparison | None, is_baseline: bool) -> list[Text]:
    ratio = Text("baseline") if is_baseline else Text(numbers.MISSING)
    if found and found.train_s_ratio:
        at = "" if found.whole else f"\nat epoch {found.epoch}"
        # In a narrow column the sign says what the sentence below spells out.
        ratio = Text(f"{words.speed(found.train_s_ratio).replace(' times', 'x')}{at}", style=_style(found))
    return [
        Text(arm.name),
        Text(numbers.percent(arm.reached)),
        Text(numbers.seconds(arm.train_s)),
        ratio,
        Text(numbers.percent(macs_saved(arm))),
        Text(numbers.size(arm.peak_bytes)),
        Text(arm.status or "unknown"),
    ]


def _title(record: Record) -> str:
    settings = record.settings
    parts = [words.subject(record)]
    parts += [f"{key.replace('_', ' ')} {settings[key]}" for key in ("epochs", "batch_size", "seed") if key in settings]
    return ", ".join(parts)


def _style(found: Comparison) -> str:
    ratio = found.train_s_ratio
    if ratio is None or words.speed(ratio) == "as fast":
        return ""
    return "yellow" if words.slower(ratio) else "green"
