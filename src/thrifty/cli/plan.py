"""`thrifty plan`: what each method would save on a network, measured on this machine before a training begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


def plan(
    model: Annotated[str, typer.Option(help="Built-in network, or your own as package.module:function.")] = "cifarnet",
    data: Annotated[
        str | None, typer.Option(help="Image set to take the batch from; without it, random images of --input.")
    ] = None,
    input_: Annotated[
        str, typer.Option("--input", metavar="C,H,W", help="Channels, height and width of random images.")
    ] = "3,32,32",
    classes: Annotated[int, typer.Option(min=2, help="Classes of random labels.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Images in the batch.")] = 32,
    methods: Annotated[str, typer.Option(help="Methods to try, separated by commas; default: all.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.KEY=VALUE", help="A setting of a method; repeatable.")
    ] = None,
    max_error: Annotated[float, typer.Option(help="Gradient error that the choice may have.")] = 0.1,
    budget_s: Annotated[float, typer.Option("--seconds", help="About how long to measure.")] = 20.0,
    data_root: Annotated[str | None, typer.Option(help="Folder of data sets.", envvar="THRIFTY_DATA")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize the images of --data to this side.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and random images.")] = 0,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan into this .svg or .png file.")] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Plan how this group merges its gradients instead; run by torchrun.")
    ] = False,
    saved: Annotated[
        Path | None, typer.Option(help="With --distributed: file to keep that plan in, and to take it from again.")
    ] = None,
) -> None:
    """Try the methods on copies of a network, and say which to use."""
    if distributed:
        from thrifty.cli.plan_distributed import plan_distributed

        plan_distributed(model=model, shape=input_, batch=batch, classes=classes, saved=saved, threads=threads)
        return
    if saved is not None:
        raise UsageError("--saved keeps the plan of --distributed; write this one with --json")

    from rich.console import Console

    import thrifty.compose
    from thrifty.core.atomic import write_json
    from thrifty.core.machine import machine
    from thrifty.report.plan_plot import draw
    from thrifty.report.plan_table import plan_table

    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {plot}: name a .svg or a .png file")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    configs = _configs(methods, set_ or [], seed)
    network, tensors, source = _case(model, data, input_, classes, batch, data_root, image_size, seed)
    console = Console()
    console.print(f"{model}, {len(tensors[0])} images of {tuple(tensors[0].shape[1:])}: {source}", markup=False)
    with console.status("") as status:
        found = thrifty.compose.plan(
            network, tensors, methods=configs, max_error=max_error, budget_s=budget_s,
            progress=lambda name: status.update(f"trying {name}"),
        )  # fmt: skip
    console.print(plan_table(found))
    if json_ is not None:
        settings = {"model": model, "source": source, "batch": len(tensors[0]), "input": list(tensors[0].shape[1:])}
        write_json(json_, {"machine": machine(), "settings": settings, "plan": found.to_dict()})
        console.print(f"plan: {json_}", markup=False, soft_wrap=True)
    if plot is not None:
        draw(found, plot, title=model)
        console.print(f"plot: {plot}", markup=False, soft_wrap=True)


def _configs(methods: str, settings: list[str], seed: int) -> list[Any] | None:
    from thrifty.compose.catalog import method_names
    from thrifty.train.arms import method_configs

    names = [name.strip() for name in methods.split(",") if name.strip()]
    return method_configs(names or list(method_names()), settings, seed)


def _case(
    model: str, data: str | None, shape: str, classes: int, batch: int, data_root: str | None, image_size: int | None,
    seed: int,
) -> tuple[nn.Module, tuple[Tensor, Tensor], str]:  # fmt: skip
    """The network, a batch, and where that comes from."""
    import torch

    import thrifty.models
    from thrifty.train.session import seed_generators

    if data is not None:
        from thrifty.train import TrainConfig
        from thrifty.train.session import build_model
        from thrifty.train.trial import load_data, make_plan

        config = TrainConfig(
            model=model, data=data, data_root=data_root, image_size=image_size, batch_size=batch, seed=seed,
            limit_train=batch, limit_test=10, baseline="dense", methods="none",
        ).resolved()  # fmt: skip
        loaded = load_data(config)
        images, labels = next(iter(make_plan(config, [], loaded).train_batches(0, 0)))
        return build_model(config, loaded), (images, labels), loaded.source
    try:
        channels, height, width = (int(word) for word in shape.split(","))
    except ValueError:
        raise UsageError(f"--input {shape}: write channels, height and width, for example 3,224,224") from None
    if min(channels, height, width) < 1 or height != width:
        raise UsageError(f"--input {shape}: the sizes must be at least 1, and the image a square")
    seed_generators(seed, "weights")
    network = thrifty.models.build(model, num_classes=classes, in_channels=channels, image_size=height)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, channels, height, width, generator=random).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), generator=random)
    return network, (images, labels), "random images, whose zeros and likenesses are not those of real ones"
