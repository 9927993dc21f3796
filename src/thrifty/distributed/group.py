"""Joining the process group that torchrun has prepared, with an error that says what to change where that fails."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from thrifty.core.errors import DistributedError, UsageError
from thrifty.distributed.agreement import exchange

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join(*, backend: str | None = None, timeout_s: float = 60.0) -> None:
    """Join the world that the environment of torchrun describes; does nothing where this process is already in one.

    Args:
        backend: `gloo` or `nccl`; None takes nccl where there is a GPU for torch, else gloo.
        timeout_s: how long to wait for the others, and for a collective on them from then on.

    Raises:
        UsageError: the environment describes no world; a world of one; an unknown backend.
        DistributedError: the master cannot be reached, its port is in use, processes do not arrive in time, or they
            run other versions of torch.
    """
    if dist.is_initialized():
        return
    absent = [name for name in VARIABLES if not os.environ.get(name)]
    if absent:
        raise UsageError(
            f"{', '.join(absent)} not set: start the processes with torchrun, for example torchrun --nproc-per-node 2"
        )
    world = int(os.environ["WORLD_SIZE"])
    if world == 1:
        raise UsageError("a world of one process sends no gradients: raise torchrun --nproc-per-node to 2 or more")
    backend = backend or ("nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo")
    if backend not in ("gloo", "nccl"):
        raise UsageError(f"the backend is gloo or nccl, got {backend!r}")
    try:
        _init(backend, timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise DistributedError(_why(error, world, timeout_s)) from error
    versions = exchange("the version of torch", torch.__version__, None, timeout_s)
    if len(set(versions)) > 1:
        listed = ", ".join(f"rank {rank}: {version}" for rank, version in enumerate(versions))
        dist.destroy_process_group()
        raise DistributedError(f"processes run different versions of torch ({listed}): install the same everywhere")


def _init(backend: str, timeout: timedelta) -> None:
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
    # torchrun may keep its store over a restart of the group: a process could find the address of one that is gone.
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _why(error: RuntimeError, world: int, timeout_s: float) -> str:
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text:
        return f"port {os.environ['MASTER_PORT']} is in use: choose another one with torchrun --master-port"
    if os.environ["RANK"] == "0" or "workers" in text:
        return (
            f"not all of the {world} processes arrived within {timeout_s:g} s: are all nodes started, and can they "
            f"reach {place}?"
        )
    return (
        f"the master at {place} did not answer within {timeout_s:g} s: is rank 0 started there, and do name and port "
        "agree?"
    )
