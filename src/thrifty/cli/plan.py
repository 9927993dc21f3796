"""`thrifty plan`: what a method would save here, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(
    model: Annotated[str, typer.Option(help="Built-in network, or your own as package.module:function.")] = "resnet50",
    input_: Annotated[str, typer.Option("--input", help="Shape of one input: channels,height,width.")] = "3,64,64",
    batch: Annotated[int, typer.Option(help="Inputs a step, of each process.")] = 8,
    classes: Annotated[int, typer.Option(help="Width of the output.")] = 1000,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Merge plan of the gradients for this group; run it under torchrun.")
    ] = False,
    saved: Annotated[
        Path | None, typer.Option(help="File to keep profile, cost and plan in, and to take them from again.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch, in each process.")] = None,
) -> None:
    """Measure gradients and transfers on the live group, and show the plan beside the other rules."""
    from thrifty.core.errors import UsageError

    if not distributed:
        raise UsageError(
            "thrifty plan makes merge plans so far: torchrun --nproc-per-node 2 -m thrifty plan --distributed"
        )

    from thrifty.cli.plan_distributed import plan_distributed

    plan_distributed(model=model, shape=input_, batch=batch, classes=classes, saved=saved, threads=threads)
