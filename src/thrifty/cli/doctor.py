"""`thrifty doctor`: what is installed, what was chosen, what is missing and how to get it."""

from __future__ import annotations


def doctor() -> None:
    """Show versions, native kernels, thread pools, devices, data and what is missing."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from thrifty.cli.diagnosis import diagnose

    diagnosis = diagnose()
    console = Console(soft_wrap=True)
    for title, rows in diagnosis.sections.items():
        console.print(f"[bold]{title}[/bold]")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2), pad_edge=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        console.print(table)
    for warning in diagnosis.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if not diagnosis.warnings:
        console.print("[green]nothing to mend[/green]")
