"""Training steps of stock models under a limit in bytes: time factor and peak, against checkpoints placed by hand.

What a rival refuses is left out, with its message.

`fraction` is of the plain step's activation memory: its peak of tensors that the step makes, less the gradients of the
parameters, which nobody can do without; a limit is that part of it and these gradients. Parameters and data are not
counted. The rivals: torch.utils.checkpoint around every block, which has one point, not a limit; and the same with a
policy that saves products only (selective checkpointing). Times are process CPU seconds, medians, in turn. Ours are of
steps that follow a plan, and, as "first step", of steps that no plan is known for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

FRACTIONS = (0.7, 0.5, 0.3, 0.2)
_BEFORE = 6  # steps, so that costs are known, a plan is made and followed, and first buffers are not counted


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        models: all of them where none is named; rows of others that an earlier run left are kept.
    """

    models: tuple[str, ...] = ()


@benchmark("ad-models", "training steps of stock models in a part of their memory: time factor and peak")
def run(
    quick: bool,
    console: Console,
    options: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
    keep: Callable[[BenchResult], None] = lambda so_far: None,
) -> BenchResult:
    """Measure every model at every fraction."""
    from thrifty.bench.ad_model_zoo import ZOO
    from thrifty.core.errors import UsageError

    choices, dotted = read_options(Choices, options, {"models": ("cnn", "lstm")} if quick else None)
    names = choices.models or tuple(ZOO)
    if unknown := [*dotted, *(name for name in names if name not in ZOO)]:
        raise UsageError(f"--set: {unknown[0]} is unknown; models are {', '.join(ZOO)}")
    rows = [row for row in (earlier or {}).get("rows", []) if row["model"] not in names]
    for name in names:
        rows += _measure(name, quick, console)
        keep(_result(rows, quick))
    return _result(rows, quick)


def _result(rows: list[dict[str, Any]], quick: bool) -> BenchResult:
    worst = {
        f"worst_factor_at_{fraction}": max(
            (row["time_factor"] for row in rows if row["method"] == f"checkpointing {fraction}"), default=None
        )
        for fraction in FRACTIONS
    }
    columns = ("model", "method", "fraction", "time_factor", "peak_bytes", "limit_bytes")
    return BenchResult({"quick": quick, "dtype": "float32"}, list(rows), worst, columns)


def _measure(name: str, quick: bool, console: Console) -> list[dict[str, Any]]:
    """The rows of one model."""
    from thrifty.bench.ad_model_zoo import ZOO
    from thrifty.bench.timing import interleave, median_min_max
    from thrifty.core.errors import UsageError

    make, shape = ZOO[name]
    plain_peak = _peak(make, shape, _plain, _BEFORE)
    parameters = sum(parameter.nbytes for parameter in make().parameters())
    arms: dict[str, Callable[..., Any]] = {"plain": _plain, "by hand": _by_hand, "selective": _selective}
    first: dict[str, Callable[..., Any]] = {}
    limits = {}
    for fraction in FRACTIONS:
        limit = parameters + int(fraction * (plain_peak - parameters))
        limits[f"checkpointing {fraction}"] = limits[f"first step {fraction}"] = limit
        arms[f"checkpointing {fraction}"] = partial(_ours, limit)
        first[f"first step {fraction}"] = partial(_first, limit)
    peaks, calls = {}, {}
    for arm, context in (arms | first).items():
        try:
            peaks[arm] = _peak(make, shape, context, 0 if arm in first else _BEFORE)
            calls[arm] = partial(context, *_setting(make, shape))
        except (UsageError, RuntimeError) as error:  # too small a limit; a rival that refuses the model
            console.print(f"{name}, {arm}: {str(error).splitlines()[0]}")
    # First steps come last: the plans of so many limits would push out those that are followed.
    turns = 2 if quick else 5
    planned = {arm: call for arm, call in calls.items() if arm not in first}
    timed = interleave(planned, turns, clock=time.process_time)
    timed |= interleave({arm: call for arm, call in calls.items() if arm in first}, 2, clock=time.process_time)
    plain_s = median_min_max(timed["plain"]).median
    console.print(f"{name}: plain step {plain_s:.3f} s, peak {plain_peak / 1e6:.1f} MB")
    return [
        {
            "model": name,
            "fraction": (peaks[arm] - parameters) / (plain_peak - parameters),
            "method": arm,
            "time_factor": median_min_max(seconds).median / plain_s,
            "peak_bytes": peaks[arm],
            "limit_bytes": limits.get(arm),
            "step_s": median_min_max(seconds).median,
        }
        for arm, seconds in timed.items()
    ]


def _setting(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, Tensor]:
    import torch

    torch.manual_seed(0)
    model = make()
    return model, torch.randn(shape), torch.randint(10, (shape[0],))


def _step(model: nn.Module, inputs: Tensor, labels: Tensor, wrap: Callable[..., Any]) -> None:
    from torch.nn.functional import cross_entropy

    cross_entropy(model(inputs, wrap), labels).backward()
    model.zero_grad()


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _plain(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    _step(model, inputs, labels, _call)


def _by_hand(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    from torch.utils.checkpoint import checkpoint

    _step(model, inputs, labels, partial(checkpoint, use_reentrant=False))


def _selective(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    import torch
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    products = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.convolution.default]
    contexts = partial(create_selective_checkpoint_contexts, products)
    _step(model, inputs, labels, partial(checkpoint, use_reentrant=False, context_fn=contexts))


def _ours(limit: int, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    from thrifty import checkpointing

    with checkpointing(f"{limit}B"):
        _step(model, inputs, labels, _call)


_turns = itertools.count(1)


def _first(limit: int, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    # Plans are remembered by limit: one that was never given before has none.
    _ours(limit + next(_turns), model, inputs, labels)


def _peak(make: Callable[[], nn.Module], shape: tuple[int, ...], context: Callable[..., Any], before: int) -> int:
    from thrifty.autodiff.meter import LiveMeter

    setting = _setting(make, shape)
    for _ in range(before):
        context(*setting)
    with LiveMeter() as meter:
        context(*setting)
    return meter.peak_bytes
