"""Joining the world of torchrun: every way in which that fails is one line that says what to change."""

from __future__ import annotations

import socket

import merging
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn

from thrifty.core.errors import DistributedError, ModelError, UsageError
from thrifty.distributed import MergedGradients, data_parallel, hand_over, join, measure_transfers, profile_gradients
from thrifty.distributed.plan import MergePlan


@pytest.fixture
def world(monkeypatch, free_port):
    def describe(**variables: object) -> None:
        settings = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port, **variables}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))

    yield describe
    assert not dist.is_initialized()


def test_no_world(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set: start .* with torchrun"):
        join()


def test_a_world_of_one(world):
    world(WORLD_SIZE=1)
    with pytest.raises(UsageError, match="a world of one process sends no gradients"):
        join()


def test_an_unknown_backend(world):
    world()
    with pytest.raises(UsageError, match="the backend is gloo or nccl, got 'mpi'"):
        join(backend="mpi")


def test_a_master_that_is_not_there(world):
    world(RANK=1)
    with pytest.raises(DistributedError, match=r"the master at 127\.0\.0\.1:\d+ did not answer within 2 s"):
        join(backend="gloo", timeout_s=2.0)


def test_a_worker_that_does_not_come(world):
    world()
    with pytest.raises(DistributedError, match="not all of the 2 processes arrived within 2 s"):
        join(backend="gloo", timeout_s=2.0)


def test_a_port_in_use(world):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        world(MASTER_PORT=port)
        with pytest.raises(DistributedError, match=f"port {port} is in use: choose another one"):
            join(backend="gloo", timeout_s=5.0)


def test_other_versions_of_torch(free_port):
    for found in run_ranks(2, merging.versions, free_port, join=False):
        assert found.startswith("processes run different versions of torch (rank 0: 9.0, rank 1: 9.1)")


NO_GROUP = "there is no process group: start the processes with torchrun"


@pytest.mark.parametrize(
    "call",
    [
        lambda model: data_parallel(model, lambda: model(torch.ones(1, 2)).sum()),
        lambda model: profile_gradients(model, lambda: model(torch.ones(1, 2)).sum()),
        lambda model: measure_transfers(),
        lambda model: hand_over(model, MergePlan((("weight", "bias"),), (12,), 0.0, "optimal", 1)),
    ],
)
def test_nothing_is_measured_without_a_group(call):
    with pytest.raises(UsageError, match=NO_GROUP):
        call(nn.Linear(2, 1))


def test_models_that_something_else_holds_are_refused():
    compiled = torch.compile(nn.Linear(2, 1), backend="eager")
    with pytest.raises(ModelError, match=r"OptimizedModule: call thrifty\.distributed\.data_parallel\(model\) before"):
        data_parallel(compiled, lambda: compiled(torch.ones(1, 2)).sum())
    inside = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    inside[1].compile(backend="eager")
    with pytest.raises(ModelError, match="part '1' of the model is compiled"):
        data_parallel(inside, lambda: inside(torch.ones(1, 2)).sum())
    with pytest.raises(ModelError, match=r"part '0' of the model is a FSDPModule: .* before fully_shard"):
        data_parallel(nn.Sequential(sharded()), lambda: torch.zeros(()))


def sharded() -> nn.Module:
    from torch.distributed.fsdp import FSDPModule

    class FSDPLinear(FSDPModule, nn.Linear):
        """As fully_shard makes of a Linear, which needs a group."""

        def __new__(cls, *sizes: int) -> FSDPLinear:
            return nn.Module.__new__(cls)

    FSDPLinear.__module__ = "torch.distributed.fsdp"
    return FSDPLinear(2, 1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rule": "best"}, r"MergedGradients\.rule is 'best': choose one of optimal, per-tensor"),
        ({"steps": 0}, r"MergedGradients\.steps must be a whole number of at least 1, got 0"),
        ({"warmup": -1}, r"MergedGradients\.warmup must be a whole number of at least 0, got -1"),
        ({"in_flight": 3}, r"MergedGradients\.in_flight must be 1, 2 or None, got 3"),
        ({"timeout_s": 0}, r"MergedGradients\.timeout_s must be a positive number of seconds, got 0"),
        ({"transfer_s": float("inf")}, r"MergedGradients\.transfer_s must be a positive number of seconds, got inf"),
        ({"saved": ""}, r"MergedGradients\.saved must be the path of a file, got ''"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        MergedGradients(**settings)


def test_apply_says_what_to_call_instead():
    import thrifty

    with pytest.raises(UsageError, match=r"merged gradients wrap the whole model: call thrifty\.distributed\.data_par"):
        thrifty.apply_(nn.Sequential(nn.Conv2d(1, 1, 1)), [MergedGradients()])
