"""What one `thrifty train` is asked to do: a frozen dataclass that is checked before anything is read or written."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from thrifty.autodiff.budget import parse_memory
from thrifty.compose import rules
from thrifty.core.codec import decode_fields
from thrifty.core.errors import UsageError
from thrifty.distributed.wire import WIRES
from thrifty.models.registry import check_name
from thrifty.train import defaults
from thrifty.train.optimizers import EXEMPTIONS, OPTIMIZERS
from thrifty.train.precisions import AMPS
from thrifty.train.schedule import SCHEDULES

DDP, MEASURE = "ddp", "measure"
"""Words of --plan that are no file."""

# What may differ between a run and its continuation: where things lie and how often they are written.
NOT_SETTINGS = (
    "out", "data_root", "resume", "overwrite", "checkpoint_every", "threads", "tensorboard", "worker_timeout",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; every arm shares them.

    Attributes:
        model: a name of `thrifty.models.names()` or `package.module:function`.
        data: a named image set, or the path of an ImageFolder (directory or zip).
        out: folder of the run; None makes `runs/MODEL-DATA`.
        data_root: folder in which named sets are looked for; None uses THRIFTY_DATA or the cache folder.
        methods: arms, separated by commas; `+` joins methods in one arm, `@bf16`, `@bf16-weights` or `@none`
            sets its precision; `auto` tries methods and precisions first and takes the best.
        baseline: `dense`, or `none` for method arms only.
        settings: `method.key=value` for the configs of the methods.
        epochs: passes over the training images.
        batch_size: images a step, of all workers together.
        optimizer: `sgd`, `adamw`, `lars` or `lamb`.
        schedule: `one-cycle`, `cosine`, `step` or `poly`.
        warm_up: share of the steps in which the rate of `cosine` and `poly` rises; None takes the schedule's own.
        learning_rate: the peak of the schedule; None takes the network's own.
        momentum: of SGD and LARS.
        nesterov: of SGD.
        weight_decay: of weight matrices and kernels.
        exempt: what biases and normalisation layers are spared: weight `decay`, the layer-wise `rate` of LARS and LAMB,
            `both` or `none`.
        label_smoothing: share of the target that is spread over all classes, 0..1.
        amp: `none`, `bf16` for autocast, or `bf16-weights` for weights in 16 bits with fp32 masters too.
        wire: format of gradients between workers: `fp32`, `bf16` or `fp16`.
        plan: buckets in which gradients travel between workers: `ddp` for DistributedDataParallel's own, `measure` for
            the merge plan, measured before the first step of each arm and kept with the run, or the file of a plan that
            was measured before, and is measured anew where it does not hold.
        memory: bytes that a step may make, for example `512MiB`: saved activations beyond them are let go, and made
            again in the backward pass; the numbers stay the same, bit for bit. None sets no limit.
        compile: train through `torch.compile`; the step that compiles is on a clock of its own.
        seed: of initial weights, order, augmentation, dropout and methods.
        limit_train: use so many training images only.
        limit_test: use so many test images only.
        image_size: resize images to this side in pixels.
        augment: flip and crop the training images.
        channels_last: keep images and kernels in channels_last memory.
        limit_steps: end each arm after so many steps; the schedule is laid over them.
        resume: go on with the run in `out`.
        overwrite: replace the run in `out`.
        checkpoint_every: steps between checkpoints inside an epoch; None is about every 30 s.
        threads: of torch; None leaves torch's own choice.
        tensorboard: write event files too.
        worker_timeout: seconds after which a worker that does not answer is given up.

    Raises:
        UsageError: naming the flag, what it was and what it may be.
    """

    model: str = "cifarnet"
    data: str = "fashion-mnist-slice"
    out: str | None = None
    data_root: str | None = None
    methods: str = "reuse"
    baseline: str = "dense"
    settings: tuple[str, ...] = ()
    epochs: int = 5
    batch_size: int = 128
    optimizer: str = "sgd"
    schedule: str = "one-cycle"
    warm_up: float | None = None
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    exempt: str = "both"
    label_smoothing: float = 0.0
    amp: str = "none"
    wire: str = "fp32"
    plan: str = DDP
    memory: str | None = None
    compile: bool = False
    seed: int = 0
    limit_train: int | None = None
    limit_test: int | None = None
    image_size: int | None = None
    augment: bool = True
    channels_last: bool = True
    limit_steps: int | None = None
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: int | None = None
    threads: int | None = None
    tensorboard: bool = False
    worker_timeout: float = 600.0

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            value = getattr(self, name)
            optional = value is None and name in _OPTIONAL
            if not optional and not (_is_number(value) and rule.holds(value)):
                raise UsageError(f"{flag(name)} must be {rule.words}, not {value}")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"unknown {flag(name)} '{value}'; choose one of {', '.join(allowed)}")
        if self.memory is not None:
            parse_memory(self.memory)
            rules.check(["checkpointing"], [rules.COMPILE] if self.compile else [])
        check_name(self.model)
        if not self.plan:
            raise UsageError("--plan is empty: give ddp, measure, or the file of a plan")
        if not self.data:
            raise UsageError("--data is empty: give a named set or the path of an ImageFolder")
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other")

    def resolved(self) -> "TrainConfig":
        """Return the config with the defaults that depend on other fields filled in: `out`, `learning_rate`."""
        name = self.data.rstrip("/").rsplit("/", 1)[-1]
        out = self.out or f"runs/{self.model.replace(':', '.')}-{name}"
        rate = self.learning_rate
        if rate is None:
            rate = defaults.learning_rate(self.model, self.optimizer, self.batch_size)
        return replace(self, out=out, learning_rate=rate)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "settings": list(self.settings)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """Build the config from recorded settings, ignoring what is not a field.

        Raises:
            UsageError: a field of the wrong type or value.
        """
        known = {field.name for field in fields(cls)}
        return cls(**decode_fields(cls, {key: value for key, value in data.items() if key in known}, "settings"))


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return {"settings": "--set", "augment": "--no-augment"}.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class _Rule:
    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


_COUNT = _Rule("a whole number of at least 1", _whole)
_RULES = {
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "limit_train": _COUNT,
    "limit_test": _COUNT,
    "image_size": _COUNT,
    "limit_steps": _COUNT,
    "checkpoint_every": _COUNT,
    "threads": _COUNT,
    "learning_rate": _Rule("a finite number above 0", lambda value: value > 0),
    "weight_decay": _Rule("a finite number of at least 0", lambda value: value >= 0),
    "momentum": _Rule("at least 0 and below 1", lambda value: 0 <= value < 1),
    "label_smoothing": _Rule("at least 0 and below 1", lambda value: 0 <= value < 1),
    "warm_up": _Rule("at least 0 and below 1", lambda value: 0 <= value < 1),
    "worker_timeout": _Rule("a finite number above 0", lambda value: value > 0),
    "seed": _Rule("a whole number of at least 0", lambda value: isinstance(value, int) and value >= 0),
}
_OPTIONAL = {
    "limit_train", "limit_test", "image_size", "limit_steps", "checkpoint_every", "threads", "learning_rate", "warm_up",
}  # fmt: skip
_CHOICES = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "exempt": EXEMPTIONS,
    "amp": AMPS,
    "wire": tuple(WIRES),
    "baseline": ("dense", "none"),
}
