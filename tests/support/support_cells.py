"""The ways of each method, each on a little network, for the checks behind the table of what goes together."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.core.lockstep import apart
from thrifty.distributed import MixedPrecision, Wire, attach, bucket_report, data_parallel, measure
from thrifty.distributed.precision import PrecisionWarning

TARGET = torch.tensor([0, 1, 2, 3, 0, 1])
MERGED = thrifty.MergedGradients(rule="per-tensor", steps=1, warmup=1, transfer_s=0.05)
"""A plan that DistributedDataParallel would not make of itself."""


@dataclass
class Put:
    """A method on a network.

    `called` is what a step calls, `around` the whole step, `forward` the pass, and `backward` its way back; gradients
    are larger by `scale`. `acted` tells whether the method did its work, `saves` is what a checkpoint should hold, and
    `unwatch` lets go of what looks on.
    """

    model: nn.Module
    called: nn.Module
    acted: Callable[[], bool]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    forward: Callable[[], AbstractContextManager[Any]] = nullcontext
    backward: Callable[[Tensor], None] = Tensor.backward
    scale: Callable[[], float] = lambda: 1.0
    saves: Callable[[], Mapping[str, Tensor]] | None = None
    unwatch: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Way:
    """One way of a method, on a network that it changes.

    `exact`: its values are the stock network's, up to `tolerance`; `stock_in_eval`: those in evaluation are, bit for
    bit; `in_layers`: it is `apply_`'s.
    """

    put: Callable[[nn.Module], Put]
    network: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    exact: bool = True
    stock_in_eval: bool = True
    tolerance: float = 1e-5
    in_layers: bool = False


class Network(nn.Sequential):
    """A user's own: torch.compile passes torch's by where DistributedDataParallel calls them."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = module(x)
        return x


def conv_network() -> nn.Module:
    torch.manual_seed(0)
    return Network(
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )


def conv_inputs() -> Tensor:
    """Others on each rank."""
    seed = 1 + (dist.get_rank() if apart() else 0)
    return torch.randn(6, 16, 8, 8, generator=torch.Generator().manual_seed(seed)).relu()


def wide_network() -> nn.Module:
    torch.manual_seed(0)
    return Network(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))


def wide_inputs() -> Tensor:
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


def layers(config: thrifty.Reuse | thrifty.LSH) -> Callable[[nn.Module], Put]:
    """A method that changes layers. It acts where it does less, or other, work than they would."""

    def put(model: nn.Module) -> Put:
        applied = thrifty.apply_(model, [config])
        return Put(model, model, lambda: any(c.macs != c.dense_macs for c in applied.counters().values()))

    return put


def precision(policy: thrifty.Precision) -> Callable[[nn.Module], Put]:
    """A precision, which acts where the last layer computes in it."""

    def put(model: nn.Module) -> Put:
        seen: list[torch.dtype] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)  # of machines without such products
            at_work = MixedPrecision(policy, model, torch.optim.SGD(model.parameters(), lr=0.1))
        last = list(model.modules())[-1]
        watch = last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        scaler = at_work._scaler
        return Put(
            model, model, lambda: policy.dtype in seen, forward=at_work.autocast, backward=at_work.backward,
            scale=lambda: scaler.get_scale() if scaler else 1.0, saves=at_work.weights, unwatch=watch.remove,
        )  # fmt: skip

    return put


def checkpointing(model: nn.Module) -> Put:
    """It acts where something was computed again."""
    limited = thrifty.checkpointing(2)
    return Put(model, model, lambda: limited.recomputed_ops > 0, around=lambda: limited)


def merged(model: nn.Module) -> Put:
    """It acts where the buckets are those of the plan, as they are from the second step on."""
    x = conv_inputs().to(next(model.parameters()).dtype)
    plan = measure(model, lambda: cross_entropy(model(x), TARGET), MERGED).plan
    wrapped = data_parallel(model, lambda: cross_entropy(model(x), TARGET), MERGED)

    def acted() -> bool:
        wrapped(x)  # lays the buckets out, if this is the second step
        return len(plan.buckets) > 2 and bucket_report(wrapped, plan).as_planned

    return Put(model, wrapped, acted)


def sixteen_bits(model: nn.Module) -> Put:
    """Gradients that travel in 16 bits, on a model that torch has wrapped; it acts where buckets have gone through."""
    wrapped = model if isinstance(model, DistributedDataParallel) else DistributedDataParallel(model)
    hook = attach(wrapped, Wire("bf16"))
    return Put(wrapped.module, wrapped, lambda: hook.buckets > 0)


FIXED = thrifty.Reuse(stages=(thrifty.Stage(8, 5),), fixed=True, skip_zeros=False)
POLICIES = [thrifty.Precision("bf16"), thrifty.Precision("bf16", weights="compute"), thrifty.Precision("fp16")]
WAYS = {
    "lsh": [
        Way(layers(thrifty.LSH(layers=("0",), active=0.2, mode=mode, force=True)), wide_network, wide_inputs,
            exact=False, stock_in_eval=False, in_layers=True)
        for mode in ("each", "shared")
    ],
    "reuse": [
        Way(layers(thrifty.Reuse(measure=False)), conv_network, conv_inputs, in_layers=True),
        Way(layers(FIXED), conv_network, conv_inputs, exact=False, in_layers=True),
    ],
    "precision": [
        Way(precision(policy), conv_network, conv_inputs, stock_in_eval=False, tolerance=3e-2) for policy in POLICIES
    ],
    "merge": [
        Way(merged, conv_network, conv_inputs),
        Way(sixteen_bits, conv_network, conv_inputs, tolerance=1e-2),
    ],
    "checkpointing": [Way(checkpointing, conv_network, conv_inputs, tolerance=0.0)],
}  # fmt: skip
