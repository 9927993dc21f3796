"""One of the two processes behind `thrifty bench merge-plan`: measures, and runs every rule in turn.

Started with the environment of torchrun and one argument, the job as JSON. Every rule has a twin of the network, of the
same weights and with gradients of its own, wrapped in DistributedDataParallel, which learns its order in two steps that
do not count. Then the rules take turns step by step, so that a machine whose speed drifts treats all alike; their order
turns round by one place each round. Process 0 writes what was found to the job's file.
"""

from __future__ import annotations

import copy
import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from thrifty import models
from thrifty.core.atomic import write_json
from thrifty.distributed import (
    MergePlan,
    TransferCost,
    Wire,
    WireHook,
    attach,
    bucket_report,
    compare,
    hand_over,
    join,
    make_plan,
)
from thrifty.distributed.measure_gradients import kept, profile_gradients
from thrifty.distributed.measure_transfers import default_in_flight, measure_transfers
from thrifty.distributed.plan import DEAR, SPLIT_OPTIMAL, plan_of_counts
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import RIVALS

OPTIMAL, DEFAULT = "optimal", "ddp-default"
HALF, DEFAULT_HALF = "optimal, bf16 wire", "ddp-default, bf16 wire"
RULES = (OPTIMAL, *RIVALS, HALF, DEFAULT_HALF)
BOUND, BOUND_HALF = "bound of any buckets", "bound, bf16 wire"
LEARNING_STEPS = 2
WIRE = Wire("bf16", channels=2)


@dataclass(frozen=True)
class Job:
    """What the two processes do.

    Attributes:
        network: of `thrifty.models`.
        batch: images a process and step.
        image_size: side in pixels.
        rounds: timed steps of each rule.
        transfer_s: seconds for timing transfers.
        out: file that process 0 writes.
    """

    network: str
    batch: int
    image_size: int
    rounds: int
    transfer_s: float
    out: str


def main() -> None:
    """Do the job given as the first argument."""
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    join(backend="gloo", timeout_s=300.0)
    try:
        found = work(job)
        if dist.get_rank() == 0:
            write_json(Path(job.out), found)
    finally:
        dist.destroy_process_group()


def work(job: Job) -> dict[str, Any]:
    """Measure and time; returns plain data."""
    torch.manual_seed(0)
    network = models.build(job.network, num_classes=1000, image_size=job.image_size)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(job.batch, 3, job.image_size, job.image_size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (job.batch,))

    def step(model: nn.Module) -> None:
        cross_entropy(model(images), labels).backward()

    _tell("timing gradients")
    profile = profile_gradients(network, lambda: cross_entropy(network(images), labels), steps=5, timeout_s=300.0)
    _tell("timing transfers, beside compute as in a step")
    with kept(network):
        cost = measure_transfers(
            largest_bytes=2**25, limit_s=job.transfer_s, timeout_s=300.0, beside=lambda: step(network)
        )
        half = measure_transfers(
            largest_bytes=2**24, limit_s=job.transfer_s / 2, dtype=torch.bfloat16, timeout_s=300.0,
            beside=lambda: step(network),
        )  # fmt: skip
    in_flight = default_in_flight(None)
    plans = {rule: make_plan(profile, cost, in_flight=in_flight, rule=rule) for rule in (OPTIMAL, *RIVALS)}
    sent = profile.sent_as(2)
    # Caps count the bytes of the parameters, whatever the wire carries.
    halved = {
        HALF: make_plan(sent, half, in_flight=in_flight),
        DEFAULT_HALF: plan_of_counts(sent, half, plans[DEFAULT].counts, in_flight, DEFAULT),
    }
    for rule, plan in halved.items():
        plans[rule] = plan_of_counts(profile, cost, plan.counts, in_flight, plan.rule)
    predicted = {rule: halved.get(rule, plan).predicted_s for rule, plan in plans.items()}
    seconds, differences = _in_turn(network, plans, step, job.rounds)
    return {
        "profile": profile.to_dict(),
        "cost": cost.to_dict(),
        "bf16_cost": half.to_dict(),
        "in_flight": in_flight,
        "plans": {rule: _shown(plan) for rule, plan in plans.items()},
        "modelled_s": {rule: profile.forward_s + max(end, profile.backward_s) for rule, end in predicted.items()},
        "alone_s": profile.compute_s,
        "seconds": seconds,
        "differences": differences,
        "bounds_s": {BOUND: bound_s(profile, cost), BOUND_HALF: bound_s(sent, half)},
        "split_s": {rule: profile.forward_s + seconds for rule, seconds in _split(profile, cost, in_flight).items()},
    }


def bound_s(profile: GradientProfile, cost: TransferCost) -> float:
    """Seconds of a step below which no buckets come: no start-ups, and a wire that is busy from the first gradient on.

    Bytes go at the rate of the largest transfer that was measured; of compute and bytes the longer counts.
    """
    per_byte = (cost.both_s[-1] - cost.alone_s[-1]) / cost.sizes_bytes[-1]
    return profile.forward_s + max(profile.backward_s, profile.ready_s[0] + profile.total_bytes * per_byte)


def _in_turn(
    network: nn.Module, plans: dict[str, MergePlan], step: Any, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds of every step by rule, the slower process's, and how the buckets differ from the plan."""
    hooks: list[WireHook] = []
    wrapped = {}
    for rule, plan in plans.items():
        wrapped[rule] = hand_over(_twin(network), plan, init_sync=False, gradient_as_bucket_view=True)
        if rule in (HALF, DEFAULT_HALF):
            hooks.append(attach(wrapped[rule], WIRE))
    seconds: dict[str, list[float]] = {rule: [] for rule in plans}
    gc.collect()
    gc.disable()  # a collection in the middle of a step is no part of it
    for turn in range(-LEARNING_STEPS, rounds):
        place = turn % len(plans)
        found = {rule: _timed(wrapped[rule], step) for rule in (*list(plans)[place:], *list(plans)[:place])}
        if turn >= 0:
            for rule in plans:
                seconds[rule].append(found[rule])
        told = ", ".join(f"{rule} {found[rule]:.3f} s" for rule in plans)
        _tell(f"step {turn + 1} of {rounds}: {told}" if turn >= 0 else f"learning the order: {told}")
    gc.enable()
    for hook in hooks:
        hook.close()
    slowest = torch.tensor([seconds[rule] for rule in plans], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    differences = {OPTIMAL: list(bucket_report(wrapped[OPTIMAL], plans[OPTIMAL]).differences)}
    return dict(zip(plans, slowest.tolist(), strict=True)), differences


def _twin(network: nn.Module) -> nn.Module:
    """The network once more, with the same memory for its weights."""
    twin = copy.deepcopy(network)
    for own, shared in zip(twin.parameters(), network.parameters(), strict=True):
        own.data = shared.data
    return twin


def _timed(wrapped: DistributedDataParallel, step: Any) -> float:
    dist.barrier()
    begun = time.perf_counter()
    step(wrapped)
    return time.perf_counter() - begun


def _tell(text: str) -> None:
    """A line of progress; whoever started the processes reads it from the first one."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def _shown(plan: MergePlan) -> dict[str, Any]:
    return {"buckets": len(plan.buckets), "bucket_bytes": list(plan.bucket_bytes)}


def _split(profile: GradientProfile, cost: TransferCost, in_flight: int) -> dict[str, float]:
    """The schedules that part the all-reduce, which DistributedDataParallel cannot run."""
    found = compare(profile, cost, in_flight=in_flight)
    return {rule: max(found[rule], profile.backward_s) for rule in (SPLIT_OPTIMAL, DEAR)}


if __name__ == "__main__":
    main()
