"""`thrifty bench`: the named benchmarks, listed or run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    name: Annotated[str | None, typer.Argument(help="Which one to run; --list shows them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the benchmarks and leave.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A small version that ends in a minute or so.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="What the benchmark lets choose; repeatable.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of data sets; else THRIFTY_DATA or the cache.")
    ] = None,
) -> None:
    """Run a benchmark by name, print its table and write its JSON."""
    from rich.console import Console

    from thrifty.bench.registry import MODULES, BenchResult, load, load_all
    from thrifty.core.errors import UsageError

    console = Console()
    if list_:
        width = max(map(len, MODULES))
        for one in load_all():
            typer.echo(f"{one.name:<{width}}  {one.line}")
        return
    if name is None:
        raise UsageError(f"say which benchmark to run: {', '.join(MODULES)}")
    chosen = load(name)

    from thrifty.bench.output import check_target, read_earlier, result_table, summary_lines, write_result

    if json is not None:
        check_target(json)
    if data_root is not None and not data_root.is_dir():
        raise UsageError(f"--data-root {data_root} is not a folder")
    earlier = read_earlier(json, name) if json is not None and chosen.merges else None

    def keep(so_far: BenchResult) -> None:
        if json is not None:
            write_result(json, name, so_far)

    result = chosen.run(
        quick=quick, console=console, data_root=data_root, options=set_ or (), earlier=earlier, keep=keep
    )
    console.print(result_table(name, result))
    for line in summary_lines(result):
        console.print(line, markup=False, highlight=False)
    keep(result)
    if json is not None:
        typer.echo(f"written: {json}")
