"""`thrifty train`: the same network trained dense and with methods, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from thrifty.train import TrainConfig

_DATA, _TRAINING, _OUTPUT = "Data", "Training", "Run"


def train(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Built-in network, or your own as package.module:function.")] = "cifarnet",
    data: Annotated[
        str, typer.Option(help="Named image set, or the path of an ImageFolder (directory or zip).")
    ] = "fashion-mnist-slice",
    methods: Annotated[
        str, typer.Option(help="Arms beside the baseline: 'reuse', 'a,b' is two arms, 'a+b' one with both, 'a@bf16'.")
    ] = "reuse",
    auto: Annotated[
        bool, typer.Option("--auto", help="Try methods and precisions first, and train with the best; --methods auto.")
    ] = False,
    baseline: Annotated[str, typer.Option(help="'dense', or 'none' for the methods alone.")] = "dense",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.KEY=VALUE", help="A setting of a method; repeatable.")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder of data sets.", envvar="THRIFTY_DATA", rich_help_panel=_DATA)
    ] = None,
    limit_train: Annotated[int | None, typer.Option(help="Training images to use.", rich_help_panel=_DATA)] = None,
    limit_test: Annotated[int | None, typer.Option(help="Test images to use.", rich_help_panel=_DATA)] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize images to this side in pixels.", rich_help_panel=_DATA)
    ] = None,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Flip and crop training images.", rich_help_panel=_DATA)
    ] = True,
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings that go together: large-batch. Given ones override.", rich_help_panel=_TRAINING),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", rich_help_panel=_TRAINING)] = 5,
    batch_size: Annotated[
        int, typer.Option(help="Images a step, of all workers together.", rich_help_panel=_TRAINING)
    ] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd, adamw, lars or lamb.", rich_help_panel=_TRAINING)] = "sgd",
    schedule: Annotated[
        str, typer.Option(help="one-cycle, cosine, step or poly.", rich_help_panel=_TRAINING)
    ] = "one-cycle",
    warm_up: Annotated[
        float | None, typer.Option(help="Share of the steps, for cosine and poly.", rich_help_panel=_TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule; default: the network's own.", rich_help_panel=_TRAINING)
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of SGD and LARS.", rich_help_panel=_TRAINING)] = 0.9,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Of SGD.", rich_help_panel=_TRAINING)] = False,
    weight_decay: Annotated[float, typer.Option(help="Of matrices and kernels.", rich_help_panel=_TRAINING)] = 5e-4,
    exempt: Annotated[
        str,
        typer.Option(help="Spared to biases and norms: decay, layer-wise rate, both, none.", rich_help_panel=_TRAINING),
    ] = "both",
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target spread over all classes.", rich_help_panel=_TRAINING)
    ] = 0.0,
    amp: Annotated[str, typer.Option(help="none, bf16 or bf16-weights.", rich_help_panel=_TRAINING)] = "none",
    wire: Annotated[
        str, typer.Option(help="Gradients between workers: fp32, bf16 or fp16.", rich_help_panel=_TRAINING)
    ] = "fp32",
    plan: Annotated[
        str,
        typer.Option(
            help="Buckets of gradients between workers: ddp, measure, or the file of a plan.", rich_help_panel=_TRAINING
        ),
    ] = "ddp",
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Of a step, as 512MiB; what does not fit is made again.", rich_help_panel=_TRAINING
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile.", rich_help_panel=_TRAINING)
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--no-channels-last", help="Memory layout.", rich_help_panel=_TRAINING)
    ] = True,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation, dropout.", rich_help_panel=_TRAINING)] = 0,
    limit_steps: Annotated[
        int | None, typer.Option(help="End each arm after so many steps.", rich_help_panel=_TRAINING)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch.", rich_help_panel=_TRAINING)] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the run; default: runs/MODEL-DATA.", rich_help_panel=_OUTPUT)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, as it was begun.", rich_help_panel=_OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.", rich_help_panel=_OUTPUT)
    ] = False,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; default: about 30 s.", rich_help_panel=_OUTPUT)
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events too.", rich_help_panel=_OUTPUT)
    ] = False,
    worker_timeout: Annotated[
        float, typer.Option(help="Seconds after which a silent worker is given up.", rich_help_panel=_OUTPUT)
    ] = 600.0,
) -> None:
    """Train a network dense and with methods, side by side, and show what it cost and what it reached.

    Under `torchrun --nproc-per-node N -m thrifty train ...`, N workers share every batch.
    """
    from rich.console import Console

    import thrifty.train
    from thrifty import report

    given = {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and not source.name.startswith("DEFAULT")
    }
    config = _config(given)
    console = Console()
    outcome = thrifty.train.run(config, command=_command(), console=console)
    if not outcome.reports:
        raise typer.Exit(outcome.exit_code)
    if outcome.interrupted:
        console.print(f"go on with: thrifty train --resume --out {outcome.folder}", markup=False, soft_wrap=True)
        raise typer.Exit(outcome.exit_code)
    page = report.write(outcome.folder)
    console.print(report.table(report.load(outcome.folder)))
    console.print(f"report: {page}", markup=False, soft_wrap=True)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _config(given: dict[str, Any]) -> TrainConfig:
    """Build the config from the options that were given; when a run is resumed, the others are as it was begun."""
    from pathlib import Path

    from thrifty.train import TrainConfig
    from thrifty.train.defaults import recipe
    from thrifty.train.folder import read_record

    if given.pop("auto", False):
        if "methods" in given:
            raise UsageError("--auto chooses the methods: leave out --methods, or add auto to it")
        given["methods"] = "auto"
    if "recipe" in given:
        given = {**recipe(given.pop("recipe")), **given}
    if "set_" in given:
        given["settings"] = tuple(given.pop("set_") or ())
    config = TrainConfig(**given)
    if not config.resume:
        return config
    folder = str(config.resolved().out)
    recorded = TrainConfig.from_dict(read_record(Path(folder))["settings"])
    return TrainConfig(**{**vars(recorded), **given, "out": folder})


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["thrifty", *sys.argv[1:]])
