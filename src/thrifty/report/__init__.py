"""One record per run, shown as a terminal table, plots and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.report.record import Record, load

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Record", "compare_runs", "load", "table", "write"]


def table(record: Record) -> RenderableType:
    """Rich renderable of the arms of a run, with what they cost against the baseline in words."""
    from thrifty.report.terminal import table as build

    return build(record)


def write(run_dir: str | Path) -> Path:
    """Write `report.html` and `plots/*.svg`, `plots/*.png` from `run_dir`/result.json; returns the page's path.

    Raises:
        UsageError: there is no such folder.
        DataError: result.json is missing, or nothing can be read of it.
    """
    from thrifty.report.writer import write as build

    return build(Path(run_dir))


def compare_runs(run_dirs: Sequence[str | Path], page: str | Path) -> tuple[Path, RenderableType]:
    """Write a page that shows several runs side by side; returns its path and a Rich renderable of all arms.

    Plots lie beside the page. Runs that cannot be read are named on it.

    Raises:
        UsageError: a run is named twice.
        DataError: none of the runs can be read.
    """
    from thrifty.report.several import load_several, several_table, write_several

    runs = load_several(run_dirs)
    return write_several(runs, Path(page)), several_table(runs)
