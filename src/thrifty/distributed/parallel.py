"""The one call: measure, plan, and wrap a model in DistributedDataParallel with the buckets that end first."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from thrifty.core.errors import CheckpointError
from thrifty.core.inspection import refuse_wrapped
from thrifty.distributed.agreement import check_same, from_first, members
from thrifty.distributed.config import MergedGradients
from thrifty.distributed.cost import TransferCost
from thrifty.distributed.handover import hand_over, refuse_sparse, single_cap, takes_cap_list
from thrifty.distributed.measure_gradients import Loss, kept, profile_gradients, specification
from thrifty.distributed.measure_transfers import LARGEST_BYTES, SMALLEST_BYTES, default_in_flight, measure_transfers
from thrifty.distributed.plan import OPTIMAL, MergePlan, make_plan, plan_of_counts
from thrifty.distributed.profile import GradientProfile
from thrifty.distributed.saved import Measured, changed, circumstances, read, save
from thrifty.distributed.wire import wire_dtype

_log = logging.getLogger(__name__)


def data_parallel(
    model: nn.Module,
    loss: Loss,
    config: MergedGradients | None = None,
    *,
    batch: str = "",
    group: ProcessGroup | None = None,
    **keywords: Any,
) -> DistributedDataParallel:
    """Wrap `model` in DistributedDataParallel with merged gradients; all processes of the group call it together.

    Args:
        model: the same on all processes, not yet wrapped or compiled.
        loss: forward pass and loss of one batch, for example `lambda: criterion(model(images), labels)`; called a few
            times, its gradients are thrown away, and buffers and random state are put back.
        config: the settings.
        batch: what a saved plan holds for besides the model, for example "32 x 224 px".
        group: the processes; all of the world where None.
        keywords: further ones of DistributedDataParallel.

    Returns:
        The wrapped model. Its buckets are compared with the plan after the first steps; see `bucket_report`.

    Raises:
        ModelError: a wrapped or compiled model.
        UsageError: no process group, a world of one, or a loss that is not one number.
        DistributedError: processes that differ, do not answer, or are gone.
    """
    refuse_wrapped(model, "thrifty.distributed.data_parallel")
    measured = measure(model, loss, config, batch=batch, group=group)
    timeout_s = (config or MergedGradients()).timeout_s
    return hand_over(model, measured.plan, group=group, timeout_s=timeout_s, **keywords)


def measure(
    model: nn.Module,
    loss: Loss,
    config: MergedGradients | None = None,
    *,
    batch: str = "",
    group: ProcessGroup | None = None,
) -> Measured:
    """Profile, cost and plan for `model`: as saved where that still holds, else measured. See `data_parallel`."""
    config = config or MergedGradients()
    refuse_wrapped(model, "thrifty.distributed.measure")
    refuse_sparse(model)
    first = members(group)[0]
    check_same("the model's parameters", specification(model), group, config.timeout_s)
    check_same("the settings of merged gradients", [str({**config.to_dict()["_data"], "saved": None})], group,
               config.timeout_s)  # fmt: skip
    said = batch if config.wire == "fp32" else f"{batch}, {config.wire} on the wire"
    now = circumstances(model, said, group, config.timeout_s)
    path = Path(config.saved) if config.saved else None
    held = json.loads(from_first("the saved plan", lambda: json.dumps(_saved(path, now)), group, config.timeout_s))
    if held is not None:
        known = Measured.from_dict(held)
        return Measured(now, known.profile, known.cost, _plan(known.profile, known.cost, config, group))
    profile = profile_gradients(
        model, loss, steps=config.steps, warmup=config.warmup, group=group, timeout_s=config.timeout_s
    )
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    with kept(model):
        cost = measure_transfers(
            largest_bytes=min(LARGEST_BYTES, max(SMALLEST_BYTES, 2 * profile.total_bytes)),
            limit_s=config.transfer_s,
            dtype=wire_dtype(config.wire),
            device=device if on_gpu else "cpu",
            group=group,
            timeout_s=config.timeout_s,
            beside=None if on_gpu else lambda: loss().backward(),  # a GPU computes without the CPU's cores
        )
    found = Measured(now, profile, cost, _plan(profile, cost, config, group))
    if path is not None:
        import torch.distributed as dist

        if dist.get_rank() == first:
            save(path, found)
    return found


def _saved(path: Path | None, now: Any) -> dict[str, Any] | None:
    """What the file holds, where it holds for this moment."""
    if path is None or not path.exists():
        return None
    try:
        measured = read(path)
    except CheckpointError as error:
        _log.warning("%s; measured anew", error)
        return None
    reasons = changed(measured, now)
    if reasons:
        _log.warning("%s is not used, and measured anew: %s", path, "; ".join(reasons))
        return None
    return measured.to_dict()


def _plan(
    profile: GradientProfile, cost: TransferCost, config: MergedGradients, group: ProcessGroup | None
) -> MergePlan:
    """The plan for transfers in the wire's format; its buckets count the bytes of the gradients, as DDP does."""
    in_flight = config.in_flight or default_in_flight(group)
    # Rules that go by bytes cut where DistributedDataParallel would, whatever the wire carries.
    sent = profile if config.wire == "fp32" else profile.sent_as(wire_dtype(config.wire).itemsize)
    if config.rule == OPTIMAL and not takes_cap_list():
        _log.warning("this torch takes one bucket size only: the best single one is used, not the optimal plan")
        plan = single_cap(sent, cost, in_flight)
    elif config.rule == OPTIMAL:
        plan = make_plan(sent, cost, in_flight=in_flight)
    else:
        counts = make_plan(profile, cost, in_flight=in_flight, rule=config.rule).counts
        plan = plan_of_counts(sent, cost, counts, in_flight, config.rule)
    return replace(plan, bucket_bytes=plan_of_counts(profile, cost, plan.counts, in_flight, plan.rule).bucket_bytes)
