"""Trainings with every subset of the methods, on one process or on each rank of a group, for tests/compose."""

import copy
import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.core.config import MethodConfig
from thrifty.core.lockstep import apart
from thrifty.data import load_images
from thrifty.distributed.precision import PrecisionWarning
from thrifty.lsh import Hashing, SlowerThanDenseWarning

HIDDEN, BATCH, STEPS, IMAGES, TESTED = 256, 64, 80, 1024, 600
RANK_STEPS = 32  # two processes on one core take their time
MERGED = thrifty.MergedGradients(steps=1, warmup=1, transfer_s=0.05)
TABLES = Hashing(family="sparse", tables=16, bits=5, refresh_every=16)  # small beside what the limits leave
FACTORS: dict[str, tuple[MethodConfig, ...]] = {
    "reuse": (thrifty.Reuse(measure=False),),
    "lsh": (thrifty.LSH(layers=("7",), active=0.5, mode="shared", force=True, hashing=TABLES),),
    "bf16 and merged": (thrifty.Precision("bf16"), MERGED),
    "checkpointing": (thrifty.MemoryLimit("5MiB"),),
}
HALF_LIMIT = thrifty.MemoryLimit("4000KiB")  # all that a step in bfloat16 saves would fit into the other
SUBSETS = [
    chosen for count in range(len(FACTORS) + 1) for chosen in itertools.combinations(FACTORS, count)
]  # fmt: skip


def configs(subset: Sequence[str]) -> list[MethodConfig]:
    found = [config for name in subset for config in FACTORS[name]]
    if apart():
        limit = thrifty.MemoryLimit(3)  # the smaller batches of ranks would fit into any that their gradients need
    else:
        limit = HALF_LIMIT if "bf16 and merged" in subset else FACTORS["checkpointing"][0]
    return [limit if isinstance(config, thrifty.MemoryLimit) else config for config in found]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10),
    ]  # fmt: skip
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images (N, 1, 28, 28) with labels: real ones, of the slice that is packaged."""
    data = load_images("fashion-mnist-slice")
    parts = []
    for split, count in ((data.train, IMAGES), (data.test, TESTED)):
        pixels = split.images[:count].permute(0, 3, 1, 2).float() / 255 - 0.3
        parts.append((pixels.contiguous(memory_format=torch.channels_last), split.labels[:count]))
    return parts[0], parts[1]


def batch(data: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
    """This rank's share of the batch of that step."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if apart() else (0, 1)
    share = BATCH // size
    start = step * BATCH % IMAGES + rank * share
    return data[0][start : start + share], data[1][start : start + share]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=4e-3)


def made(subset: Sequence[str], seed: int = 0) -> tuple[thrifty.Together, nn.Module]:
    """The training, and what its steps call: wrapped by hand where there are ranks and nothing merges for them."""
    model = network(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanDenseWarning)  # it is forced
        warnings.simplefilter("ignore", PrecisionWarning)  # of machines without bfloat16
        training = thrifty.together(
            model, configs(subset), optimizer=optimizer_of(model), group=dist.group.WORLD if apart() else None
        )
    by_hand = apart() and "bf16 and merged" not in subset
    return training, DistributedDataParallel(model) if by_hand else training


def trained(subset: Sequence[str], data: Any, seed: int = 0, steps: int = STEPS) -> dict[str, Any]:
    """Losses of this rank, test accuracy, the weights at the end, and what the methods did."""
    training, called = made(subset, seed)
    losses = []
    for step in range(steps):
        x, y = batch(data[0], step)
        losses.append(float(training.step(lambda x=x, y=y: cross_entropy(called(x), y))))
    x, y = data[1]
    training.model.eval()
    with torch.no_grad(), training.autocast():
        accuracy = float((training.model(x).argmax(1) == y).float().mean())
    counters = training.applied.counters() if training.applied else {}
    return {
        "losses": losses,
        "accuracy": accuracy,
        "weights": [parameter.detach().clone() for parameter in training.model.parameters()],
        "saved": {name: one.macs < one.dense_macs for name, one in counters.items()},
        "peak_bytes": training.memory.peak_bytes if training.memory else None,
        "recomputed_ops": training.memory.recomputed_ops if training.memory else None,
        "wrapped": isinstance(training._called, DistributedDataParallel),
    }


def stock(data: Any, seed: int = 0, steps: int = STEPS) -> dict[str, Any]:
    """The same training in torch's own words."""
    model = network(seed)
    optimizer = optimizer_of(model)
    called = DistributedDataParallel(model) if apart() else model
    losses = []
    for step in range(steps):
        x, y = batch(data[0], step)
        optimizer.zero_grad()
        loss = cross_entropy(called(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "weights": [parameter.detach().clone() for parameter in model.parameters()]}


def gradients(subset: Sequence[str], data: Any, steps: int = 3) -> list[Tensor]:
    """Those of the first steps, without an update between them: the weights stay as they are."""
    training, called = made(subset)
    training.optimizer.register_step_pre_hook(lambda *_: found.extend(g.clone() for g in grads(training.model)))
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0
    found: list[Tensor] = []
    for step in range(steps):
        x, y = batch(data[0], step)
        training.step(lambda x=x, y=y: cross_entropy(called(x), y))
    return found


def grads(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def merged_gradients(data: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Of one step under merged gradients in fp32, and the mean of what the ranks find alone."""
    x, y = batch(data[0], 0)
    model = network()
    alone = copy.deepcopy(model)
    cross_entropy(alone(x), y).backward()
    wanted = [gradient.clone() for gradient in grads(alone)]
    for gradient in wanted:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    training = thrifty.together(model, [MERGED], optimizer=optimizer_of(model))
    training.step(lambda: cross_entropy(training(x), y))
    return [gradient.clone() for gradient in grads(model)], wanted


def on_each_rank() -> dict[str, Any]:
    data = images()
    return {
        "subsets": {subset: trained(subset, data, steps=RANK_STEPS) for subset in SUBSETS},
        "stock": stock(data, steps=RANK_STEPS),
        "merged": merged_gradients(data),
    }
