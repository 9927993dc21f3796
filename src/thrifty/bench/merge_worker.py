"""One of the two processes behind `thrifty bench merge-plan`: measures, and runs every rule in turn.

Started with the environment of torchrun and one argument, the job as JSON. A turn wraps the network anew, lets
DistributedDataParallel learn its order in two steps that do not count, and times the next ones. The order of rules
turns round by one place each round. Process 0 writes what was found to the job's file.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from thrifty import models
from thrifty.core.atomic import write_json
from thrifty.distributed import MergePlan, TransferCost, bucket_report, compare, hand_over, join, make_plan
from thrifty.distributed.measure_gradients import profile_gradients
from thrifty.distributed.measure_transfers import default_in_flight, measure_transfers
from thrifty.distributed.plan import DEAR, SPLIT_OPTIMAL, plan_of_counts
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.rules import RIVALS

HALF = "optimal, fp16 wire"
RULES = ("optimal", *RIVALS, HALF)
LEARNING_STEPS = 2


@dataclass(frozen=True)
class Job:
    """What the two processes do.

    Attributes:
        network: of `thrifty.models`.
        batch: images a process and step.
        image_size: side in pixels.
        rounds: turns of each rule.
        steps: timed steps a turn.
        transfer_s: seconds for timing transfers.
        out: file that process 0 writes.
    """

    network: str
    batch: int
    image_size: int
    rounds: int
    steps: int
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
    _tell("timing gradients")
    profile = profile_gradients(network, lambda: cross_entropy(network(images), labels), steps=5, timeout_s=300.0)
    _tell("timing transfers")
    cost = measure_transfers(largest_bytes=2**25, limit_s=job.transfer_s, timeout_s=300.0)
    half = measure_transfers(largest_bytes=2**24, limit_s=job.transfer_s / 2, dtype=torch.float16, timeout_s=300.0)
    in_flight = default_in_flight(None)
    plans = {rule: make_plan(profile, cost, in_flight=in_flight, rule=rule) for rule in ("optimal", *RIVALS)}
    sent = profile.sent_as(2)
    halved = make_plan(sent, half, in_flight=in_flight)
    # Caps count the bytes of the parameters, whatever the wire carries.
    plans[HALF] = plan_of_counts(profile, cost, halved.counts, in_flight, "optimal")
    modelled = {rule: profile.forward_s + max(plan.predicted_s, profile.backward_s) for rule, plan in plans.items()}
    modelled[HALF] = profile.forward_s + max(halved.predicted_s, profile.backward_s)
    seconds: dict[str, list[float]] = {rule: [] for rule in RULES}
    differences: dict[str, list[str]] = {}
    for turn in range(job.rounds):
        place = turn % len(RULES)
        for rule in (*RULES[place:], *RULES[:place]):
            wrapped = hand_over(network, plans[rule], init_sync=False, gradient_as_bucket_view=True)
            if rule == HALF:
                wrapped.register_comm_hook(None, fp16_compress_hook)
            seconds[rule] += _steps(wrapped, images, labels, job.steps)
            _tell(f"turn {turn + 1} of {job.rounds}, {rule}: {seconds[rule][-1]:.3f} s")
            if turn == 0 and rule == "optimal":
                differences[rule] = list(bucket_report(wrapped, plans[rule]).differences)
            _unwrap(wrapped)
            del wrapped
            gc.collect()
    return {
        "profile": profile.to_dict(),
        "cost": cost.to_dict(),
        "fp16_cost": half.to_dict(),
        "in_flight": in_flight,
        "plans": {rule: _shown(plan) for rule, plan in plans.items()},
        "modelled_s": modelled,
        "alone_s": profile.compute_s,
        "seconds": seconds,
        "differences": differences,
        "split_s": {rule: profile.forward_s + seconds for rule, seconds in _split(profile, cost, in_flight).items()},
    }


def _steps(wrapped: DistributedDataParallel, images: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    found = []
    for step in range(LEARNING_STEPS + steps):
        dist.barrier()
        begun = time.perf_counter()
        cross_entropy(wrapped(images), labels).backward()
        if step >= LEARNING_STEPS:
            found.append(time.perf_counter() - begun)
    slowest = torch.tensor(found, dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return list(slowest.tolist())


def _unwrap(wrapped: DistributedDataParallel) -> None:
    """Take the wrapper's hooks off, so that the network can be wrapped again."""
    wrapped.reducer._remove_autograd_hooks()
    for parameter in wrapped.module.parameters():
        parameter.grad = None


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
