"""Every combination of the methods trains: to the accuracy of dense, on one process and on two."""

import math
import statistics

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from together_checks import (
    SUBSETS,
    TESTED,
    gradients,
    images,
    made,
    network,
    on_each_rank,
    optimizer_of,
    stock,
    trained,
)
from torch import nn
from torch.nn.functional import cross_entropy

import thrifty
from thrifty.core.errors import CheckpointError, ModelError, UsageError
from thrifty.lsh import LazyAdam, LSHSoftmaxLoss

SEEDS = (1, 2, 3)
EARLY = 0.08  # of the few steps on two ranks, after which dense trainings differ by as much among themselves


@pytest.fixture(scope="module")
def data():
    return images()


@pytest.fixture(scope="module")
def alone(data):
    return {subset: trained(subset, data) for subset in SUBSETS}


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(2, on_each_rank)


@pytest.fixture(scope="module")
def within_noise(data, alone):
    """The least accuracy that is dense's: below the mean of some seeds by two standard errors, or three of theirs."""
    found = [alone[()]["accuracy"], *(trained((), data, seed)["accuracy"] for seed in SEEDS)]
    mean, spread = statistics.mean(found), statistics.stdev(found)
    assert mean > 0.75 and spread < 0.02, found
    return mean - max(3 * spread, 2 * math.sqrt(mean * (1 - mean) / TESTED))


def same(one, other) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: "+".join(subset) or "nothing")
def test_every_subset_trains_as_well_as_dense(subset, alone, ranks, within_noise):
    assert alone[subset]["accuracy"] >= within_noise
    for found in (alone[subset], *(rank["subsets"][subset] for rank in ranks)):
        assert "".join(found["saved"]) == "03" * ("reuse" in subset) + "7" * ("lsh" in subset)
        assert found["saved"].get("3", True) and found["saved"].get("7", True)  # the first layer's input has no zeros
        # Exact reuse keeps so little that the limit may leave it alone.
        reuse_fits = found is alone[subset] and "reuse" in subset
        assert "checkpointing" not in subset or found["recomputed_ops"] or reuse_fits
    first, second = (rank["subsets"][subset] for rank in ranks)
    assert first["accuracy"] == second["accuracy"] >= ranks[0]["subsets"][()]["accuracy"] - EARLY
    assert same(first["weights"], second["weights"]) and first["losses"] != second["losses"]
    assert first["wrapped"] is ("bf16 and merged" in subset)


def test_without_methods_it_is_torch_bit_for_bit(data, alone, ranks):
    for ours, theirs in ((alone[()], stock(data)), *((rank["subsets"][()], rank["stock"]) for rank in ranks)):
        assert ours["losses"] == theirs["losses"]
        assert same(ours["weights"], theirs["weights"])


@pytest.mark.parametrize("subset", [subset for subset in SUBSETS if "checkpointing" in subset], ids="+".join)
def test_checkpointing_changes_no_bit(subset, data):
    without = [name for name in subset if name != "checkpointing"]
    assert same(gradients(subset, data), gradients(without, data))


def test_reuse_is_exact_to_rounding(data):
    for ours, dense in zip(gradients(["reuse"], data), gradients([], data), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)


def test_merged_gradients_are_the_mean_of_the_ranks(ranks):
    for rank in ranks:
        for ours, mean in zip(*rank["merged"], strict=True):
            torch.testing.assert_close(ours, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("subset", [("reuse", "lsh", "bf16 and merged", "checkpointing"), ("lsh",), ()])
def test_a_training_resumes_bit_for_bit(subset, data, tmp_path):
    def steps(training, called, of):
        return [
            float(training.step(lambda x=x, y=y: cross_entropy(called(x), y)))
            for x, y in [
                (data[0][0][32 * step : 32 * step + 32], data[0][1][32 * step : 32 * step + 32]) for step in of
            ]
        ]

    whole, called = made(subset)
    steps(whole, called, range(3))
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    wanted = steps(whole, called, range(3, 6))
    again, called = made(subset, seed=5)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert steps(again, called, range(3, 6)) == wanted
    network().load_state_dict(again.state_dict()["model"])  # stock keys
    other, _ = made(() if subset else ("reuse",))
    with pytest.raises(CheckpointError):
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_masters_of_16_bit_weights_are_what_is_saved(data):
    model = network()
    policy = thrifty.Precision("bf16", weights="compute")
    training = thrifty.together(model, [policy, thrifty.Reuse(measure=False)], optimizer=optimizer_of(model))
    x, y = data[0][0][:32], data[0][1][:32]
    training.step(lambda: cross_entropy(training(x), y))
    assert model[0].weight.dtype is torch.bfloat16
    assert training.state_dict()["model"]["0.weight"].dtype is torch.float32


class Wide(nn.Module):
    """A wide head, whose gradients hold some rows."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.head = LSHSoftmaxLoss(8, 600, active=40, tail=40, when="hashed", sparse=sparse)

    def forward(self, x, y):
        return self.head(self.body(x).relu(), y)


@pytest.mark.filterwarnings("ignore:hashing 600 classes")  # so few classes are faster dense
@pytest.mark.filterwarnings("ignore::thrifty.distributed.precision.PrecisionWarning")
@pytest.mark.parametrize("methods", [[], [thrifty.Precision("bf16")], [thrifty.MemoryLimit(2)]], ids=str)
def test_lazy_optimizers_take_part(methods):
    model, (x, y) = Wide(), (torch.randn(16, 8), torch.arange(16) * 30)
    optimizer = LazyAdam(model.parameters(), lr=1e-2)
    training = thrifty.together(model, methods, optimizer=optimizer)
    optimizer.watch(model)
    losses = [float(training.step(lambda: training(x, y))) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert model.head.weight.grad.is_sparse


def refused(error, match, model, methods, optimizer=None):
    """Refused in one line, and nothing has changed."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    kinds = [(type(module), module.training) for module in model.modules()]
    formats = [parameter.dtype for parameter in model.parameters()]
    groups = [list(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(error, match=match) as caught:
        thrifty.together(model, methods, optimizer=optimizer)
    assert "\n" not in str(caught.value)
    assert [(type(module), module.training) for module in model.modules()] == kinds
    assert [parameter.dtype for parameter in model.parameters()] == formats
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        assert all(one is other for one, other in zip(group["params"], before, strict=True))


def test_what_cannot_go_together_is_refused():
    half = thrifty.Precision("bf16", weights="compute")
    wide = Wide()
    refused(UsageError, 'keep fp32 weights, Precision\\("bf16"\\)', wide, [half], LazyAdam(wide.parameters()))
    refused(UsageError, "build the layer with sparse=False", wide, [thrifty.MergedGradients()])
    refused(UsageError, "listed twice", network(), [half, thrifty.Precision()])
    double = [thrifty.Reuse(), thrifty.Precision("bf16")]
    refused(ModelError, "build it in float32", network().double(), double)
    compiled = network()
    compiled.compile(backend="eager")
    refused(ModelError, r"before model\.compile", compiled, [thrifty.Reuse()])
    refused(UsageError, "holds none", network(), [thrifty.Reuse()], optimizer_of(network()))


def test_a_group_that_was_not_joined_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(UsageError, r"call thrifty\.distributed\.join\(\) before", network(), [thrifty.MergedGradients()])


@pytest.mark.parametrize("methods", ["reuse", None, thrifty.Reuse()])
def test_methods_that_are_no_list(methods):
    model = network()
    with pytest.raises(UsageError, match="takes a list of method configs"):
        thrifty.together(model, methods, optimizer=optimizer_of(model))


@pytest.mark.parametrize("loss", [lambda: torch.ones(2), lambda: 1.0])
def test_a_loss_that_is_not_one_number(loss):
    training, _ = made(())
    with pytest.raises(UsageError, match="returns the loss as one number"):
        training.step(loss)


@pytest.mark.parametrize("config", [thrifty.Precision("bf16"), thrifty.MemoryLimit("1GiB"), thrifty.MergedGradients()])
def test_apply_names_together(config):
    with pytest.raises(UsageError, match=r"or (use )?thrifty\.together"):
        thrifty.apply_(network(), [config])


@pytest.mark.parametrize("memory", [None, 0, "many", 1.5, "0MiB"])
def test_limits_that_cannot_be_meant(memory):
    with pytest.raises(UsageError, match="memory"):
        thrifty.MemoryLimit(memory)


def test_data_parallel_refuses_sparse_gradients(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/world", rank=0, world_size=1)
    try:
        with pytest.raises(ModelError, match="'head' makes sparse gradients"):
            thrifty.distributed.data_parallel(Wide(), lambda: torch.zeros(()))
    finally:
        dist.destroy_process_group()
