"""What ranks of a group do in the tests of communication hooks; each function runs on every rank of a group."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from thrifty.distributed import routes
from thrifty.distributed.hooks import Wire, attach
from thrifty.distributed.precision import MixedPrecision, Precision

UNIT = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
ROUNDINGS = {"flat": 2, "hierarchical": 3, "hybrid": 3}


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 65), nn.Tanh(), nn.Linear(65, 5)]
    return nn.Sequential(*layers).to(dtype)


def gradients(model: nn.Module, step: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of one batch, which is another one for each rank and step."""
    source = torch.Generator().manual_seed(10 * step + dist.get_rank())
    x = torch.randn(6, 7, generator=source).to(dtype)
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def exchanged(wire: Wire, dtype: torch.dtype = torch.float32, steps: int = 2) -> dict[str, Any]:
    """Go some steps, and hold the gradients against the plain average.

    Returns by how much of the promised bound the worst element was off (at most 1), and whether all ranks got the same
    bits.
    """
    ranks, group = dist.get_world_size(), dist.group.WORLD
    model = small_model(dtype)
    alone = copy.deepcopy(model)
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.004)
    hook = attach(wrapped, wire)
    worst, alike = 0.0, True
    for step in range(steps):
        found, own = gradients(wrapped, step, dtype), gradients(alone, step, dtype)
        for gradient, of_rank in zip(found, own, strict=True):
            every = gathered(of_rank.double(), ranks, group)
            mean, size = every.mean(0), every.abs().mean(0)
            unit = UNIT["bf16"] if dtype is torch.bfloat16 else UNIT[wire.format]
            rounded = ROUNDINGS[wire.route] + (dtype is torch.bfloat16)
            bound = 1.02 * rounded * unit * size + rounded * 2.0**-25  # where fp16 has no finer values
            worst = max(worst, float(((gradient.double() - mean).abs() / bound).max()))
            bits = gathered(gradient.double(), ranks, group)
            alike &= bool((bits == bits[0]).all())
    hook.close()
    return {"worst": worst, "alike": alike, "buckets": hook.buckets, "groups": hook.groups, "switch": hook.switch_bytes}


def gathered(x: torch.Tensor, ranks: int, group: dist.ProcessGroup) -> torch.Tensor:
    every = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(every, x, group=group)
    return torch.stack(every)


def repeated(feedback: bool, steps: int = 16) -> float:
    """The error of the mean of a gradient that is the same in every step, in units of what one rounding may take."""
    model = small_model()
    wrapped = DistributedDataParallel(model)
    hook = attach(wrapped, Wire("bf16", error_feedback=feedback))
    own = gradients(copy.deepcopy(model), 0, torch.float32)
    total = [torch.zeros_like(gradient, dtype=torch.float64) for gradient in own]
    for _ in range(steps):
        for one, gradient in zip(total, gradients(wrapped, 0, torch.float32), strict=True):
            one += gradient.double()
    ranks, group = dist.get_world_size(), dist.group.WORLD
    errors = []
    for one, of_rank in zip(total, own, strict=True):
        every = gathered(of_rank.double(), ranks, group)
        errors.append(float(((one / steps - every.mean(0)).abs() / every.abs().mean(0)).mean()))
    state = hook.state_dict()
    hook.load_state_dict(state)
    kept = {name for name, value in state["residuals"].items() if value.any()}
    assert (kept == {name for name, _ in model.named_parameters()}) is feedback
    hook.close()
    return math.fsum(errors) / len(errors) / UNIT["bf16"]


def overflowed() -> list[bool]:
    """Whether a gradient that is too large for fp16 on rank 1 is infinite here, for each parameter."""
    model = nn.Linear(3, 2)
    wrapped = DistributedDataParallel(model)
    hook = attach(wrapped, Wire("fp16"))
    factor = 1e6 if dist.get_rank() == 1 else 1.0
    (wrapped(torch.ones(1, 3)).sum() * factor).backward()
    hook.close()
    return [bool(parameter.grad.isinf().all()) for parameter in model.parameters()]


def skipped() -> list[Any]:
    """Whether each of two fp16 steps was done, the second with an overflow on rank 1 alone; scale and count then."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = MixedPrecision(Precision("fp16", init_scale=16.0), model, optimizer, group=dist.group.WORLD)
    done: list[Any] = []
    for factor in (1.0, 1e30 if dist.get_rank() == 1 else 1.0):
        before = copy.deepcopy(model.state_dict())
        with precision.autocast():
            y = model(torch.ones(2, 7))
        precision.zero_grad()
        precision.backward(y.float().mean() * factor)
        done.append(precision.step())
        assert done[-1] != all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return [*done, precision.state_dict()["scaler"]["scale"], precision.skipped]


def failing() -> str:
    """What a backward pass raises when its exchange fails."""
    model = nn.Linear(3, 2)
    wrapped = DistributedDataParallel(model)
    hook = attach(wrapped, Wire("bf16"))

    def broken(x: torch.Tensor) -> None:
        raise ValueError("no way through")

    hook._routes = [broken]
    try:
        wrapped(torch.ones(1, 3)).sum().backward()
    except Exception as error:
        return str(error)
    finally:
        hook.close()
    return "nothing"


CASES = {
    "fp32 flat": Wire("fp32"),
    "bf16 flat": Wire("bf16"),
    "fp16 flat": Wire("fp16"),
    "bf16 flat, two at a time": Wire("bf16", channels=2),
    "fp32 hierarchical": Wire("fp32", "hierarchical"),
    "bf16 hierarchical": Wire("bf16", "hierarchical"),
    "fp16 hierarchical, two at a time": Wire("fp16", "hierarchical", channels=2),
    "bf16 hybrid": Wire("bf16", "hybrid", switch_bytes=1000),
}


def of_some() -> bool | None:
    """Whether a model that ranks 0 and 2 train gets their mean, over the group that it has; None on other ranks."""
    group = dist.new_group([0, 2])
    if dist.get_rank() not in (0, 2):
        return None
    model = nn.Linear(3, 2)
    wrapped = DistributedDataParallel(model, process_group=group)
    hook = attach(wrapped, Wire("bf16", "hierarchical", ((1,), (0,))))
    (wrapped(torch.ones(1, 3)).sum() * (dist.get_rank() + 1)).backward()
    hook.close()
    return bool((model.weight.grad == 2.0).all())


def everything() -> dict[str, Any]:
    routes.PROBED_BYTES = (1024, 4096)
    ranks = dist.get_world_size()
    members = tuple(range(ranks))
    found: dict[str, Any] = {}
    for name, wire in CASES.items():
        if wire.route != "flat" and ranks > 2:
            wire = replace(wire, groups=(members[:2], members[2:]))
        found[name] = exchanged(wire)
    found["bf16 weights"] = exchanged(Wire("bf16"), torch.bfloat16)
    found["bf16 measured"] = exchanged(Wire("bf16", "hybrid", (members[::2], members[1::2])))
    found["detected"] = routes.detect_groups()
    found["plain"], found["feedback"] = repeated(False), repeated(True)
    found["overflowed"] = overflowed()
    found["skipped"] = skipped()
    found["failing"] = failing()
    found["of some"] = of_some() if ranks == 4 else None
    return found
