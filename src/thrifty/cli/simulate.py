"""`thrifty simulate`: step time and scaling efficiency over many workers, by all-reduce and merge rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_NETWORK, _STEP, _UNEVEN = "Network", "Step", "Uneven workers"


def simulate(
    model: Annotated[str, typer.Option(help="Built-in network, or your own as package.module:function.")] = "resnet50",
    profile: Annotated[
        Path | None, typer.Option(help="A measured profile instead: what --saved of thrifty plan has written.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Powers of two up to this number, or a list such as 8,32,64.")] = "4096",
    bandwidth: Annotated[
        str, typer.Option(help="Of the network, in each direction.", rich_help_panel=_NETWORK)
    ] = "10Gbit",
    latency: Annotated[str, typer.Option(help="Of a message.", rich_help_panel=_NETWORK)] = "10us",
    local_bandwidth: Annotated[
        str | None, typer.Option(help="Within a group; default: that of the network.", rich_help_panel=_NETWORK)
    ] = None,
    local_latency: Annotated[
        str | None, typer.Option(help="Within a group; default: that of the network.", rich_help_panel=_NETWORK)
    ] = None,
    algorithm: Annotated[
        str, typer.Option(help="ring, halving-doubling, hierarchical, or all.", rich_help_panel=_NETWORK)
    ] = "all",
    group: Annotated[
        int | None,
        typer.Option(help="Workers in a group of the hierarchical one; default: the best.", rich_help_panel=_NETWORK),
    ] = None,
    in_flight: Annotated[int, typer.Option(help="Transfers at a time: NCCL 1, gloo 2.", rich_help_panel=_NETWORK)] = 1,
    rule: Annotated[str, typer.Option(help="A merge rule, several with commas, or all.")] = "all",
    batch: Annotated[
        int | None, typer.Option(help="Images a worker and step; default: the network's own.", rich_help_panel=_STEP)
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels.", rich_help_panel=_STEP)] = 224,
    compute: Annotated[
        str | None,
        typer.Option(
            help="Forward and backward pass of a worker, as 0.2s; default: a Tesla P40.", rich_help_panel=_STEP
        ),
    ] = None,
    gradient: Annotated[str, typer.Option(help="On the wire: fp32, fp16 or bf16.", rich_help_panel=_STEP)] = "fp32",
    jitter: Annotated[
        float, typer.Option(help="Spread of each stretch's time; 0.05 is about 5 %.", rich_help_panel=_UNEVEN)
    ] = 0.0,
    stragglers: Annotated[
        float, typer.Option(help="Share of workers that are slow in a step.", rich_help_panel=_UNEVEN)
    ] = 0.0,
    straggler_factor: Annotated[
        float, typer.Option(help="How many times as long everything takes these.", rich_help_panel=_UNEVEN)
    ] = 2.0,
    steps: Annotated[int, typer.Option(help="Steps to simulate with these.", rich_help_panel=_UNEVEN)] = 50,
    seed: Annotated[int, typer.Option(help="Of jitter and stragglers.", rich_help_panel=_UNEVEN)] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for simulate.json and the plot.")] = None,
) -> None:
    """Simulate data-parallel steps and show how they scale, with the published points beside them."""
    from rich.console import Console

    from thrifty.cli.simulation import Request, run

    request = Request(
        model=model, profile=profile, workers=workers, bandwidth=bandwidth, latency=latency,
        local_bandwidth=local_bandwidth, local_latency=local_latency, algorithm=algorithm, group=group,
        in_flight=in_flight, rule=rule, batch=batch, image_size=image_size, compute=compute, gradient=gradient,
        jitter=jitter, stragglers=stragglers, straggler_factor=straggler_factor, steps=steps, seed=seed, out=out,
    )  # fmt: skip
    run(request, Console())
