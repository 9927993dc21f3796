"""`thrifty cite`: the papers behind the methods, as BibTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cite(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Runs or methods; every method where there is none.", metavar="[RUN|METHOD]..."),
    ] = None,
) -> None:
    """Print the papers behind the methods that runs have used, as BibTeX."""
    from thrifty.report import load
    from thrifty.report.cite import bibtex, method, methods_of

    chosen = None
    if what:
        chosen = [one for word in what for one in (methods_of(load(word)) if Path(word).is_dir() else method(word))]
    typer.echo(bibtex(chosen))
