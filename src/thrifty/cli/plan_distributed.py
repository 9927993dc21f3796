"""`thrifty plan --distributed`: the merge plan of a model for the group that torchrun has started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from thrifty.distributed.saved import Measured


def plan_distributed(
    *, model: str, shape: str, batch: int, classes: int, saved: Path | None, threads: int | None
) -> None:
    """Join the group, measure or take what was saved, and let the first process print it.

    Raises:
        ThriftyError: wrong options, no torchrun, or processes that differ or are gone.
    """
    import torch
    import torch.distributed as dist

    from thrifty import models
    from thrifty.core.errors import UsageError
    from thrifty.distributed import MergedGradients, join, measure

    try:
        channels, *size = (int(part) for part in shape.split(","))
        height, width = size
    except ValueError:
        raise UsageError(f"--input {shape}: write it as channels,height,width, for example 3,224,224") from None
    if batch < 1:
        raise UsageError(f"--batch {batch}: at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    join()
    try:
        torch.manual_seed(0)
        network = models.build(model, num_classes=classes, in_channels=channels, image_size=(height, width))
        inputs, labels = torch.randn(batch, channels, height, width), torch.randint(classes, (batch,))
        config = MergedGradients(saved=None if saved is None else str(saved))
        found = measure(network, _loss(network, inputs, labels), config, batch=f"{batch} x {shape}")
        if dist.get_rank() == 0:
            _show(model, found)
    finally:
        dist.destroy_process_group()


def _loss(network: nn.Module, inputs, labels):  # type: ignore[no-untyped-def]
    from torch.nn.functional import cross_entropy

    return lambda: cross_entropy(network(inputs), labels)


def _show(model: str, found: Measured) -> None:
    from rich.console import Console
    from rich.table import Table

    from thrifty.distributed import compare
    from thrifty.report import numbers

    profile, plan = found.profile, found.plan
    console = Console()
    table = Table(title=f"{model}: predicted end of the last transfer", title_justify="left", title_style="bold")
    for column in ("rule", "from the start of backward", "after backward"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule, end_s in compare(profile, found.cost, in_flight=plan.in_flight).items():
        table.add_row(rule, numbers.seconds(end_s), numbers.seconds(max(0.0, end_s - profile.backward_s)))
    console.print(table)
    table = Table(title=f"plan {plan.rule}: {len(plan.buckets)} transfers", title_justify="left", title_style="bold")
    for column in ("size", "gradients", "first"):
        table.add_column(column, justify="left" if column == "first" else "right")
    for bucket, size in zip(plan.buckets, plan.bucket_bytes, strict=True):
        table.add_row(numbers.size(size), str(len(bucket)), bucket[0])
    console.print(table)
    startup_s, byte_s = found.cost.fitted()
    console.print(
        f"{len(found.circumstances.hosts)} processes, {found.circumstances.backend}; forward "
        f"{numbers.seconds(profile.forward_s)}, backward {numbers.seconds(profile.backward_s)}, gradients "
        f"{numbers.size(profile.total_bytes)}; a transfer takes about {numbers.seconds(startup_s)} and "
        f"{numbers.size(1 / byte_s) if byte_s else '-'}/s; {plan.in_flight} in flight",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
