"""One record per run, shown as a terminal table, plots and a self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.report.record import Record, load

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Record", "load", "table", "write"]


def table(record: Record) -> RenderableType:
    """Rich renderable of the arms of a run, with what they cost against the baseline in words."""
    from thrifty.report.terminal import table as build

    return build(record)


def write(run_dir: str | Path) -> Path:
    """Write `report.html` and `plots/*.svg`, `plots/*.png` from `run_dir`/result.json; returns the page's path.

    Raises:
        UsageError: there is no such folder.
        DataError: result.json is missing or cannot be read.
    """
    from thrifty.report.writer import write as build

    return build(Path(run_dir))
