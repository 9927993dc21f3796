"""Checkpointing beside what acts below or above torch's operations: compiled code, unseen writes, sparse rows."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import thrifty
from thrifty.ops import _stages


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch's compiler
def test_compiled_code_runs_uncompiled_inside():
    torch._dynamo.reset()
    ran = []

    def backend(graph, inputs):
        return lambda *args: ran.append(1) or graph(*args)

    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    compiled, x = torch.compile(model, backend=backend), torch.randn(3, 4)
    compiled(x).sum().backward()
    assert ran == [1]
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with thrifty.checkpointing(1):
        compiled(x).sum().backward()
    assert ran == [1]
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), wanted, strict=True))
    compiled(x)
    assert ran == [1, 1]


def test_memory_that_unseen_code_filled_is_not_made_again_from_nothing():
    """NumPy writes into torch.empty; an operation in place then reads it."""
    values = torch.randn(64)

    def step(x):
        y = torch.empty(64)
        y.numpy()[:] = values.numpy()
        y.relu_()
        loss = (x * y).sin().sum()
        torch.cat([torch.sin(x) * i for i in range(6)]).sum().add(loss).backward()
        return x.grad

    plain = step(values.clone().requires_grad_())
    with thrifty.checkpointing(1) as used:
        found = step(values.clone().requires_grad_())
    assert used.evicted and torch.equal(found, plain)


def test_embeddings_with_sparse_gradients():
    torch.manual_seed(0)
    table, out = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 1)
    ids, gradients = torch.arange(12).view(3, 4), []
    for memory in (None, 2):
        table.zero_grad()
        if memory is None:
            out(table(ids)).tanh().sum().backward()
        else:
            with thrifty.checkpointing(memory):
                out(table(ids)).tanh().sum().backward()
        gradients.append(table.weight.grad.to_dense())
    assert torch.equal(*gradients)


def test_batch_norm_under_data_parallelism(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/world", rank=0, world_size=1)
    try:
        found = []
        for memory in (None, 4):
            torch.manual_seed(0)
            model = DistributedDataParallel(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
            for step in range(3):
                x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(step))
                model.zero_grad()
                if memory is None:
                    loss = model(x).square().mean()
                    loss.backward()
                else:
                    with thrifty.checkpointing(memory):
                        loss = model(x).square().mean()
                        loss.backward()
            found.append([parameter.grad for parameter in model.parameters()] + list(model.buffers()))
        assert all(map(torch.equal, *found))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        thrifty.Reuse(measure=False),
        thrifty.Reuse(measure=False, stages=(thrifty.Stage(8, 5),), fixed=True),
        thrifty.Reuse(measure=False, stages=(thrifty.Stage(8, 5),), fixed=True, gradients="clusters"),
        thrifty.LSH(layers=("6",), active=0.3, force=True),
        thrifty.LSH(layers=("6",), active=0.3, force=True, mode="shared"),
    ],
    ids=["exact", "clusters", "gradients of clusters", "each", "shared"],
)
@pytest.mark.filterwarnings("ignore:layer .* hashing would take")
def test_changed_layers_are_made_again_bit_for_bit(config, half):
    """And counted once: what is made again is not booked a second time."""
    x, target = torch.randn(16, 8, 12, 12).relu(), torch.arange(16) % 4
    found = []
    for memory in (None, 2):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 4),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        applied = thrifty.apply_(model, [config])
        used = None if memory is None else thrifty.checkpointing(memory)
        for _ in range(2):
            with used or _stages.report_to(None), torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = nn.functional.cross_entropy(model(x), target)
                loss.backward()
            applied.step(loss)
        counted = {name: (one.macs, one.dense_macs, one.steps) for name, one in applied.counters().items()}
        found.append(([loss.detach(), *(parameter.grad for parameter in model.parameters())], counted))
        assert used is None or used.recomputed_ops
    (plain, once), (again, counted) = found
    assert all(map(torch.equal, plain, again)) and counted == once
