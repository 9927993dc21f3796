"""Models that something has taken hold of are refused, with the fix; nothing is changed."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel

from thrifty.compose import apply_, remove_
from thrifty.core.errors import ModelError


@pytest.fixture
def world(tmp_path):
    """A gloo world of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/world", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def refused(model, net, counting, match):
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ModelError, match=match):
        apply_(model, [counting()])
    with pytest.raises(ModelError, match=match):
        apply_(nn.Sequential(model), [counting()])
    assert [type(module) for module in model.modules()] == kinds


def test_distributed_data_parallel(world, net, counting):
    match = r"DistributedDataParallel: call thrifty\.apply_\(model\) before DistributedDataParallel\(model\)"
    refused(DistributedDataParallel(net), net, counting, match)


def test_a_changed_model_trains_under_distributed_data_parallel(world, net, counting):
    applied = apply_(net, [counting()])
    wrapped = DistributedDataParallel(net)
    wrapped(torch.randn(2, 3, 6, 6)).sum().backward()
    assert net[0].weight.grad is not None and applied.counters()["0"].steps == 1
    with pytest.raises(ModelError, match=r"call thrifty\.remove_\(model\) before Distributed"):
        remove_(wrapped)
    assert type(remove_(net)[0]) is nn.Conv2d


def test_data_parallel(net, counting):
    refused(DataParallel(net), net, counting, "before DataParallel")


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded(world, net, counting):
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    refused(fully_shard(net, mesh=mesh), net, counting, r"FSDPModule: call .* before fully_shard\(model\)")


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_data_parallel(world, net, counting):
    model = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
    refused(model, net, counting, "before FullyShardedDataParallel")


@pytest.mark.filterwarnings("ignore")
def test_compiled(net, counting):
    refused(torch.compile(net), net, counting, r"OptimizedModule: call .* before torch\.compile\(model\)")


@pytest.mark.filterwarnings("ignore")
def test_compiled_in_place(net, counting):
    net.compile()
    refused(net, net, counting, r"compiled: call thrifty\.apply_\(model\) before model\.compile\(\)")


@pytest.mark.filterwarnings("ignore")
def test_one_compiled_part(net, counting):
    net[4].compile()
    with pytest.raises(ModelError, match="part '4' of the model is compiled"):
        apply_(net, [counting()])


@pytest.mark.filterwarnings("ignore")
def test_scripted(net, counting):
    refused(torch.jit.trace(net, torch.zeros(1, 3, 6, 6)), net, counting, "before torch.jit")
