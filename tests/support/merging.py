"""What the processes of the tests of merged gradients do; each function runs in every process of a group."""

from __future__ import annotations

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from thrifty.core.errors import DistributedError, ThriftyError
from thrifty.distributed import MergedGradients, bucket_report, data_parallel, hand_over, join, measure, realised
from thrifty.distributed.agreement import check_same, exchange, from_first
from thrifty.distributed.handover import PlanWarning
from thrifty.distributed.measure_gradients import profile_gradients
from thrifty.distributed.measure_transfers import measure_transfers
from thrifty.distributed.plan import MergePlan

QUICK = MergedGradients(steps=2, warmup=1, transfer_s=0.3, timeout_s=20.0)


class Branches(nn.Module):
    """Registered in another order than used: readiness is not the reverse of `named_parameters()`."""

    def __init__(self, unused: bool = False, width: int = 24) -> None:
        super().__init__()
        self.last = nn.Linear(width, 4)
        self.first = nn.Linear(10, width)
        self.middle = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        self.spare = nn.Linear(3, 3) if unused else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(torch.relu(self.first(x))))


def problem(rank: int, seed: int = 0, **keywords: Any) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = Branches(**keywords)
    own = torch.Generator().manual_seed(100 + rank)
    return model, torch.randn(8, 10, generator=own), torch.randint(4, (8,), generator=own)


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x), y)


def whole_way(folder: str) -> dict[str, Any]:
    """Measure, plan, save, wrap, train three steps, read back, and use what was saved."""
    rank = int(os.environ["RANK"])
    model, x, y = problem(rank)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    config = MergedGradients(**{**QUICK.to_dict()["_data"], "saved": f"{folder}/plan-{rank}.json"})
    begun = time.perf_counter()
    measured = measure(model, lambda: loss_of(model, x, y), config, batch="8")
    seconds = time.perf_counter() - begun
    unchanged = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    unchanged &= torch.equal(random, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())

    # Two buckets, so that the hand-over has something to get wrong whatever was measured.
    names = measured.profile.names
    sizes = dict(zip(names, measured.profile.sizes_bytes, strict=True))
    halves = (names[:3], names[3:5], names[5:])
    plan = MergePlan(halves, tuple(sum(sizes[name] for name in half) for half in halves), 0.0, "optimal", 2)
    wrapped = hand_over(model, plan)
    gradients = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlanWarning)
        for _ in range(4):
            wrapped.zero_grad()
            loss_of(wrapped, x, y).backward()
            gradients.append({name: p.grad.clone() for name, p in wrapped.module.named_parameters()})
    report = bucket_report(wrapped, plan)

    # The same step without DistributedDataParallel: the average of what each process has by itself.
    alone, _, _ = problem(rank)
    alone.load_state_dict(before)
    loss_of(alone, x, y).backward()
    error = 0.0
    for name, parameter in alone.named_parameters():
        mean = parameter.grad.clone()
        dist.all_reduce(mean)
        error = max(error, float((mean / dist.get_world_size() - gradients[0][name]).abs().max()))

    again, _, _ = problem(rank)

    def never() -> torch.Tensor:
        raise AssertionError("what was saved should have been used")

    kept = measure(again, never, config, batch="8")
    other = measure(again, lambda: loss_of(again, x, y), config, batch="16")
    one_call = data_parallel(again, lambda: loss_of(again, x, y), config, batch="16")
    for _ in range(3):
        loss_of(one_call, x, y).backward()
    return {
        "profile": measured.profile.to_dict(),
        "cost": measured.cost.to_dict(),
        "plan": measured.plan.to_dict(),
        "seconds": seconds,
        "unchanged": unchanged,
        "planned": [list(bucket) for bucket in halves],
        "realised": [list(bucket) for bucket in report.realised],
        "differences": list(report.differences),
        "error": error,
        "kept_profile": kept.profile.to_dict(),
        "other_profile": other.profile.to_dict(),
        "file": Path(config.saved or "").is_file(),
        "one_call": sorted(name for bucket in realised(one_call) for name in bucket),
        "names": sorted(name for name, _ in model.named_parameters()),
        "drift": drift(rank),
    }


def disagreements() -> dict[str, str]:
    """Everything that processes can disagree on; each time all of them get an error, and the group lives on."""
    rank = int(os.environ["RANK"])
    found = {}

    def note(name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = "no error"

    model, x, y = problem(rank)
    wide, _, _ = problem(rank, width=24 + rank)
    note("models", lambda: measure(wide, lambda: loss_of(wide, x, y), QUICK))
    settings = MergedGradients(**{**QUICK.to_dict()["_data"], "rule": "optimal" if rank else "single"})
    note("settings", lambda: measure(model, lambda: loss_of(model, x, y), settings))
    spare, _, _ = problem(rank, unused=True)
    note("no gradient", lambda: profile_gradients(spare, lambda: loss_of(spare, x, y), steps=1, timeout_s=20.0))

    def sometimes() -> torch.Tensor:
        parts = model(x)
        return parts.sum() if rank == 0 else sum(p.sum() for p in model.last.parameters())

    note("no gradient on one", lambda: profile_gradients(model, sometimes, steps=1, warmup=0, timeout_s=20.0))
    note("loss fails on one", lambda: profile_gradients(
        model, lambda: loss_of(model, x, y) if rank == 0 else loss_of(model, x[:, :3], y), steps=1, timeout_s=20.0
    ))  # fmt: skip
    note("lines", lambda: check_same("things", ["a", f"b{rank}"], None, 20.0))
    note("count", lambda: check_same("things", ["a"] * (1 + rank), None, 20.0))
    note("plans", lambda: hand_over(model, one_bucket(model) if rank else one_each(model)))
    note("first fails", lambda: from_first("a thing", fail, None, 20.0))
    note("still there", lambda: check_same("things", ["a"], None, 20.0))
    wrapped = nn.parallel.DistributedDataParallel(model)
    note("wrapped", lambda: data_parallel(wrapped, lambda: loss_of(model, x, y), QUICK))
    note("two groups", lambda: _in_group(rank))
    return found


def one_bucket(model: nn.Module) -> MergePlan:
    names = [name for name, _ in model.named_parameters()]
    return MergePlan((tuple(names),), (0,), 0.0, "single", 2)


def one_each(model: nn.Module) -> MergePlan:
    names = [name for name, _ in model.named_parameters()]
    return MergePlan(tuple((name,) for name in names), (0,) * len(names), 0.0, "per-tensor", 2)


def beside(folder: str) -> dict[str, Any]:
    """Transfers beside compute: it goes on meanwhile, its error is told, and gradients there were are not added to."""
    rank = int(os.environ["RANK"])
    model, x, y = problem(rank)
    loss_of(model, x, y).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    calls = 0

    def loss() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss_of(model, x, y)

    measure(model, loss, QUICK)
    found: dict[str, Any] = {"calls": calls, "threads": threading.active_count()}
    found["kept"] = all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())

    def broken() -> None:
        raise ThriftyError("the loss broke")

    try:
        measure_transfers(largest_bytes=4096, limit_s=0.3, beside=broken)
    except ThriftyError as error:
        found["error"] = str(error)
    plans = {}
    for wire in ("fp32", "bf16"):
        config = MergedGradients(**{**QUICK.to_dict()["_data"], "wire": wire, "saved": f"{folder}/{wire}.json"})
        plans[wire] = measure(model, loss, config).plan
    found["bytes"] = {wire: sum(plan.bucket_bytes) for wire, plan in plans.items()}
    done = calls
    other = MergedGradients(**{**QUICK.to_dict()["_data"], "wire": "fp16", "saved": f"{folder}/bf16.json"})
    measure(model, loss, other)
    found["anew"] = calls > done
    return found


def fail() -> str:
    raise ThriftyError("the file is damaged")


def _in_group(rank: int) -> None:
    single = dist.new_group([0])
    exchange("a word", "x", single if rank == 0 else None, 0.2 if rank else 20.0)


def drift(rank: int) -> list[str]:
    """Plans that DistributedDataParallel cannot follow: told once, with what is different."""
    model, x, y = problem(rank)
    sizes = {name: parameter.numel() * 4 for name, parameter in model.named_parameters()}
    early = tuple(name for name in sizes if name.startswith("first"))  # ready last
    late = tuple(name for name in sizes if name not in early)
    plan = MergePlan((early, late), tuple(sum(sizes[n] for n in part) for part in (early, late)), 0.0, "optimal", 2)
    wrapped = hand_over(model, plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            loss_of(wrapped, x, y).backward()
    return [str(warning.message) for warning in caught if warning.category is PlanWarning]


def dying(when: str) -> str:
    """Rank 1 leaves without a word in the middle of planning."""
    rank = int(os.environ["RANK"])
    model, x, y = problem(rank)
    config = MergedGradients(**{**QUICK.to_dict()["_data"], "timeout_s": 3.0})
    calls = 0

    def loss() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if rank == 1 and when == "profile" and calls == 2:
            os._exit(9)
        return loss_of(model, x, y)

    if rank == 1 and when == "transfers":

        def leave(*_: Any, **__: Any) -> None:
            os._exit(9)

        dist.all_reduce = leave  # the first transfer is its last call
    begun = time.perf_counter()
    try:
        measure(model, loss, config)
    except DistributedError as error:
        return f"{time.perf_counter() - begun:.1f} {error}"
    return "no error"


def versions(port: int) -> str:
    """Join through the environment of torchrun with different versions of torch, then with the same."""
    rank = int(os.environ["RANK"])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.__version__ = f"9.{rank}"
    try:
        join(backend="gloo", timeout_s=20.0)
    except DistributedError as error:
        return str(error)
    return "no error"


def page(block: str, port: int) -> dict[str, Any]:
    """Run a block of a page between a reader's own model, batches and optimizer."""
    rank = int(os.environ["RANK"])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    model, _, _ = problem(rank, seed=rank)  # other weights on each process: wrapping makes them equal
    own = torch.Generator().manual_seed(rank)
    names = {
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [(torch.randn(8, 10, generator=own), torch.randint(4, (8,), generator=own)) for _ in range(3)],
    }
    exec(compile(block, "page", "exec"), names)
    return {"kind": type(names["model"]).__name__, "sum": float(sum(p.double().sum() for p in model.parameters()))}


def large_answer(size: int) -> bytes:
    return os.environ["RANK"].encode() * size


def unwilling() -> str:
    if os.environ["RANK"] == "1":
        raise ThriftyError("rank 1 would not")
    return "fine"


def silent() -> str:
    if os.environ["RANK"] == "1":
        os._exit(7)
    return "still here"
