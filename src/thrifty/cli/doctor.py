"""`thrifty doctor`: what is installed, what was chosen, what is missing and how to get it."""

from __future__ import annotations


def doctor() -> None:
    """Show versions, native kernels, thread pools, devices, data and what is missing."""
    from rich.console import Console
    from rich.markup import escape

    from thrifty.cli.diagnosis import diagnose

    diagnosis = diagnose()
    # Long lines are left to the terminal, so that a path or a command can be copied whole.
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(name) for rows in diagnosis.sections.values() for name, _ in rows)
    for title, rows in diagnosis.sections.items():
        console.print(f"[bold]{title}[/bold]")
        for name, value in rows:
            console.print(f"  {escape(name.ljust(width))}  {escape(value)}")
    for warning in diagnosis.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    if not diagnosis.warnings:
        console.print("[green]nothing to mend[/green]")
