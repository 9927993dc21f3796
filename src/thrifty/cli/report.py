"""`thrifty report`: the table of a run on the terminal, and its page and plots written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of the run: what --out of thrifty train named.")]) -> None:
    """Print the table of a run and write its report.html and plots, also of a run that is unfinished or broken."""
    from rich.console import Console

    from thrifty.report import load, table, write

    Console().print(table(load(run)))
    typer.echo(f"report: {write(run)}")
