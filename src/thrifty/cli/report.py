"""`thrifty report`: the table of a run on the terminal, and its page and plots; or several runs compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs: what --out of thrifty train named.", metavar="RUN...")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Page that compares several runs; default: comparison.html beside them.")
    ] = None,
) -> None:
    """Print the table of a run and write its report.html and plots; of several runs, one page that compares them.

    Runs that are unfinished or broken are shown as far as they go.
    """
    from rich.console import Console

    from thrifty.core.errors import UsageError
    from thrifty.report import compare_runs, load, table, write

    if len(runs) == 1:
        if out is not None:
            raise UsageError("--out is for several runs: the page of one run is its report.html")
        Console().print(table(load(runs[0])))
        typer.echo(f"report: {write(runs[0])}")
        return
    beside = Path(os.path.commonpath([path.resolve().parent for path in runs]))
    page, shown = compare_runs(runs, out or beside / "comparison.html")
    Console().print(shown)
    typer.echo(f"report: {page}")
