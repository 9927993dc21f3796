"""Lazy optimizers are the dense ones: same weights after any pattern of touched rows, at a fraction of the rows."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from thrifty.core.errors import UsageError
from thrifty.lsh import LazyAdagrad, LazyAdam, LazyAdamW, LazySGD
from thrifty.ops._backend import backend

ROWS, WIDTH = 12, 19
PAIRS = {
    "adam": (LazyAdam, torch.optim.Adam, {"lr": 0.02}),
    "adam, fast beta2": (LazyAdam, torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3}),
    "adam, no beta1": (LazyAdam, torch.optim.Adam, {"lr": 0.02, "betas": (0.0, 0.99)}),
    "adamw": (LazyAdamW, torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.3}),
    "sgd": (LazySGD, torch.optim.SGD, {"lr": 0.05}),
    "sgd, decay": (LazySGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.2}),
    "sgd, momentum": (LazySGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "sgd, all": (LazySGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True}),
    "adagrad": (LazyAdagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.01}),
}


def sparse(rows: torch.Tensor, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, shape, check_invariants=True)


def train_both(name, steps, touched, seed, schedule=None, dtype=torch.float32, width=WIDTH):
    """Run both optimizers on the same gradients; the lazy one is given the touched rows only."""
    lazy_class, dense_class, options = PAIRS[name]
    torch.manual_seed(seed)
    mine = nn.Parameter(torch.randn(ROWS, width, dtype=dtype))
    theirs = nn.Parameter(mine.detach().clone())
    lazy, dense = lazy_class([mine], **options), dense_class([theirs], **options)
    for step in range(steps):
        rows = torch.randperm(ROWS)[:touched]
        values = torch.randn(touched, width, dtype=dtype)
        if schedule:
            for optimizer in (lazy, dense):
                optimizer.param_groups[0]["lr"] = options["lr"] * schedule(step)
        lazy.catch_up(mine, rows)
        if step:
            assert_close(mine.detach()[rows], theirs.detach()[rows], rtol=2e-4, atol=2e-5)  # what a layer would read
        mine.grad = sparse(rows, values, mine.shape)
        theirs.grad = torch.zeros_like(theirs).index_copy(0, rows, values)
        lazy.step()
        dense.step()
    lazy.flush()
    return mine.detach(), theirs.detach(), lazy, dense


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_dense_and_sparse_gradients_in_turn(name):
    """After a dense one no row has anything to catch up with; after the next sparse one the others have."""
    lazy_class, dense_class, options = PAIRS[name]
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(ROWS, 3))
    theirs = nn.Parameter(mine.detach().clone())
    lazy, dense = lazy_class([mine], **options), dense_class([theirs], **options)
    for step in range(12):
        rows, values = torch.randperm(ROWS)[:2], torch.randn(2, 3)
        lazy.catch_up(mine, rows)
        theirs.grad = torch.zeros_like(theirs).index_copy(0, rows, values)
        mine.grad = theirs.grad.clone() if step % 3 == 0 else sparse(rows, values, mine.shape)
        lazy.step()
        dense.step()
        if step % 4 == 3:
            lazy.flush()
            assert_close(mine, theirs, rtol=2e-4, atol=2e-5)
    lazy.flush()
    assert_close(mine, theirs, rtol=2e-4, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(PAIRS)), steps=st.integers(1, 60), touched=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_equal_to_the_dense_optimizer(name, steps, touched, seed):
    mine, theirs, _, _ = train_both(name, steps, touched, seed)
    assert_close(mine, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_under_a_schedule_and_over_long_absences(name):
    """One row in twelve a step: many rows wait hundreds of steps, beyond the reach of momentum."""
    mine, theirs, _, _ = train_both(name, 700, 1, 4, schedule=lambda step: 0.2 + math.cos(step / 50) ** 2)
    assert_close(mine, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_double_precision_and_the_reference_agree_exactly(name):
    mine, theirs, _, _ = train_both(name, 120, 1, 5, dtype=torch.float64)
    assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    with backend("reference"):
        slow, _, _, _ = train_both(name, 60, 2, 6)
    fast, _, _, _ = train_both(name, 60, 2, 6)
    assert_close(fast, slow, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 2, 4), (4, 0), (0, 3)])
def test_any_shape_with_dense_gradients(name, shape):
    lazy_class, dense_class, options = PAIRS[name]
    mine = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(mine.detach().clone())
    lazy, dense = lazy_class([mine], **options), dense_class([theirs], **options)
    for _ in range(5):
        mine.grad = torch.randn(shape)
        theirs.grad = mine.grad.clone()
        lazy.step()
        dense.step()
    assert_close(mine, theirs, rtol=2e-4, atol=2e-5)


def test_settings_that_change_on_the_way():
    torch.manual_seed(0)
    mine = nn.Parameter(torch.randn(ROWS, WIDTH))
    theirs = nn.Parameter(mine.detach().clone())
    lazy, dense = LazyAdamW([mine], lr=0.02), torch.optim.AdamW([theirs], lr=0.02)
    for step in range(40):
        rows = torch.randperm(ROWS)[:2]
        for optimizer in (lazy, dense):
            optimizer.param_groups[0]["betas"] = (0.9, 0.999) if step < 20 else (0.5, 0.9)
            optimizer.param_groups[0]["weight_decay"] = 0.01 if step % 3 else 0.5
        values = torch.randn(2, WIDTH)
        mine.grad = sparse(rows, values, mine.shape)
        theirs.grad = torch.zeros_like(theirs).index_copy(0, rows, values)
        lazy.step()
        dense.step()
    lazy.flush()
    assert_close(mine, theirs, rtol=2e-4, atol=2e-5)


def test_rowwise_adagrad_keeps_one_number_a_row():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(ROWS, WIDTH))
    expected, sums = p.detach().clone(), torch.zeros(ROWS, 1)
    optimizer = LazyAdagrad([p], lr=0.1, rowwise=True)
    for _ in range(4):
        rows, g = torch.tensor([1, 5]), torch.randn(2, WIDTH)
        p.grad = sparse(rows, g, p.shape)
        optimizer.step()
        sums[rows] += g.square().mean(1, keepdim=True)
        expected[rows] -= 0.1 * g / (sums[rows].sqrt() + 1e-10)
    assert_close(p.detach(), expected)
    assert optimizer.state[p]["sum"].numel() == ROWS


def test_only_touched_rows_are_written():
    p = nn.Parameter(torch.randn(ROWS, WIDTH))
    before = p.detach().clone()
    optimizer = LazyAdamW([p], lr=0.1)
    p.grad = sparse(torch.tensor([2, 7]), torch.randn(2, WIDTH), p.shape)
    optimizer.step()
    changed = (p.detach() != before).any(1).nonzero().flatten()
    assert changed.tolist() == [2, 7]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd, all", "adagrad"])
def test_a_watched_embedding_trains_as_under_the_dense_optimizer(name):
    lazy_class, dense_class, options = PAIRS[name]
    torch.manual_seed(1)
    models = [nn.Sequential(nn.EmbeddingBag(60, 8, mode="sum", sparse=flag), nn.Linear(8, 3)) for flag in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [lazy_class(models[0].parameters(), **options), dense_class(models[1].parameters(), **options)]
    optimizers[0].watch(models[0])
    for _ in range(30):
        x, y = torch.randint(60, (4, 5)), torch.randint(3, (4,))
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    states = [model.state_dict() for model in models]  # the hook flushes
    assert_close(states[0]["0.weight"], states[1]["0.weight"], rtol=5e-4, atol=5e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_state_goes_on_bit_for_bit(name, tmp_path):
    lazy_class, _, options = PAIRS[name]
    torch.manual_seed(2)
    p = nn.Parameter(torch.randn(ROWS, WIDTH))
    optimizer = lazy_class([p], **options)

    def some_steps(parameter, optimizer, seed):
        torch.manual_seed(seed)
        for _ in range(70):
            parameter.grad = sparse(torch.randperm(ROWS)[:2], torch.randn(2, WIDTH), parameter.shape)
            optimizer.step()

    some_steps(p, optimizer, 1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = nn.Parameter(p.detach().clone())
    resumed = lazy_class([other], **{**options, "lr": 1.0})
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.state[other]["last"].dtype == torch.int32
    some_steps(p, optimizer, 3)
    some_steps(other, resumed, 3)
    assert torch.equal(p, other)
    again = copy.deepcopy(resumed.state_dict())
    assert again["state"][0]["step"] == 140


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: LazyAdam(p, lr=-1.0), "lr must be a finite number from 0 on, got -1"),
        (lambda p: LazyAdam(p, lr=float("nan")), "lr must be a finite number"),
        (lambda p: LazyAdamW(p, betas=(0.9, 1.0)), "betas must be from 0 to below 1"),
        (lambda p: LazySGD(p, nesterov=True), "nesterov needs a momentum"),
        (lambda p: LazySGD(p, momentum=1.0), "momentum must be below 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make([nn.Parameter(torch.zeros(2, 2))])


def test_parameters_and_gradients_that_cannot_be_rows_are_refused():
    complex_one = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    complex_one.grad = torch.zeros_like(complex_one)
    with pytest.raises(UsageError, match="view_as_real"):
        LazySGD([complex_one]).step()
    strided = nn.Parameter(torch.zeros(3, 4).t())
    strided.grad = torch.zeros(4, 3)
    with pytest.raises(UsageError, match="contiguous parameters"):
        LazyAdam([strided]).step()
    entries = nn.Parameter(torch.zeros(3, 4))
    entries.grad = torch.eye(3, 4).to_sparse()
    with pytest.raises(UsageError, match="sparse gradients of rows"):
        LazyAdam([entries]).step()
    p = nn.Parameter(torch.zeros(3, 4))
    p.grad = torch.ones(3, 4)
    with pytest.raises(UsageError, match="it must be below 1"):
        LazyAdamW([p], lr=2.0, weight_decay=0.9).step()
