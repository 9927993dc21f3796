"""LARS and LAMB against their equations, tensor by tensor; in 16 bits, through checkpoints, and with wrong settings."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thrifty.core.errors import UsageError
from thrifty.distributed.lamb import LAMB
from thrifty.distributed.lars import LARS
from thrifty.distributed.layerwise import LayerwiseOptimizer


def lars_by_hand(w, gradients, *, lr, momentum, decay, trust, clip, adapt):
    v = torch.zeros_like(w)
    for g in gradients:
        ratio = 1.0
        if adapt:
            below = g.norm() + decay * w.norm()
            ratio = trust * w.norm() / below if w.norm() > 0 and below > 0 else trust
            ratio = min(ratio, clip) if clip else ratio
        v = momentum * v + lr * ratio * (g + decay * w)
        w = w - v
    return w


def lamb_by_hand(w, gradients, *, lr, betas, decay, clip, adapt):
    m = s = torch.zeros_like(w)
    for k, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        s = betas[1] * s + (1 - betas[1]) * g * g
        u = (m / (1 - betas[0] ** k)) / ((s / (1 - betas[1] ** k)).sqrt() + 1e-6) + decay * w
        ratio = 1.0
        if adapt and w.norm() > 0 and u.norm() > 0:
            ratio = w.norm() / u.norm()
            ratio = min(ratio, clip) if clip else ratio
        w = w - lr * ratio * u
    return w


def drawn(shape, count, seed):
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(count)]


def trained(optimizer_of, weights, gradients):
    """Step by step over several tensors at once; gradients: a list for each tensor."""
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimizer = optimizer_of(parameters)
    for step in range(len(gradients[0])):
        for parameter, of_parameter in zip(parameters, gradients, strict=True):
            parameter.grad = of_parameter[step].to(parameter.dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


@given(
    shapes=st.lists(st.sampled_from([(3,), (4, 5), (2, 3, 3, 3), (1, 1)]), min_size=1, max_size=3),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.01]),
    clip=st.sampled_from([None, 1e-3]),
    adapt=st.booleans(),
    zeros=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_lars_is_its_equation(shapes, momentum, decay, clip, adapt, zeros, seed):
    weights = [drawn(shape, 1, seed + i)[0] * (not zeros) for i, shape in enumerate(shapes)]
    gradients = [drawn(shape, 4, 100 + seed + i) for i, shape in enumerate(shapes)]
    same = {"lr": 2.0, "momentum": momentum, "trust": 0.01, "clip": clip, "adapt": adapt}
    found, _ = trained(lambda p: LARS(p, weight_decay=decay, eps=0.0, **same), weights, gradients)
    for one, w, g in zip(found, weights, gradients, strict=True):
        torch.testing.assert_close(one, lars_by_hand(w, g, decay=decay, **same))


@given(
    shapes=st.lists(st.sampled_from([(3,), (4, 5), (2, 3, 3, 3)]), min_size=1, max_size=3),
    decay=st.sampled_from([0.0, 0.01]),
    clip=st.sampled_from([None, 1.0]),
    adapt=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_lamb_is_its_equation(shapes, decay, clip, adapt, seed):
    weights = [drawn(shape, 1, seed + i)[0] for i, shape in enumerate(shapes)]
    gradients = [drawn(shape, 4, 100 + seed + i) for i, shape in enumerate(shapes)]
    same = {"lr": 0.1, "betas": (0.8, 0.95), "clip": clip, "adapt": adapt}
    found, _ = trained(lambda p: LAMB(p, weight_decay=decay, **same), weights, gradients)
    for one, w, g in zip(found, weights, gradients, strict=True):
        torch.testing.assert_close(one, lamb_by_hand(w, g, decay=decay, **same))


OPTIMIZERS = {"lars": lambda p: LARS(p, lr=10.0), "lamb": lambda p: LAMB(p, lr=0.01, weight_decay=0.01)}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_parameters_are_updated_in_fp32_and_rounded_once(name, dtype):
    # Norms of these overflow or vanish in fp16: 4096 values of 200 have a sum of squares of 1.6e8.
    weight, gradient = torch.full((64, 64), 200.0), torch.full((64, 64), 1e-5)
    halves, _ = trained(OPTIMIZERS[name], [weight.to(dtype)], [[gradient.to(dtype)]])
    wide, _ = trained(OPTIMIZERS[name], [weight.to(dtype).float()], [[gradient.to(dtype).float()]])
    assert halves[0].dtype is dtype and torch.equal(halves[0], wide[0].to(dtype))
    assert not torch.equal(halves[0], weight.to(dtype)), "the step must be one that the format can show"


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_goes_on_bit_for_bit_with_fp32_state(name, dtype):
    shape = (8, 8)
    gradients = [g.float() for g in drawn(shape, 6, 1)]
    start = drawn(shape, 1, 2)[0].to(dtype)
    whole, _ = trained(OPTIMIZERS[name], [start], [gradients])
    half, optimizer = trained(OPTIMIZERS[name], [start], [gradients[:3]])
    state = copy.deepcopy(optimizer.state_dict())

    def continued(parameters):
        other = OPTIMIZERS[name](parameters)
        other.load_state_dict(state)
        return other

    rest, optimizer = trained(continued, half, [gradients[3:]])
    assert torch.equal(rest[0], whole[0])
    tensors = [v for of_one in optimizer.state.values() for v in of_one.values()]
    assert tensors and all(tensor.dtype is torch.float32 for tensor in tensors)


def test_groups_have_settings_of_their_own_and_missing_gradients_are_left_alone():
    adapted, plain, unused = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    optimizer = LARS([{"params": [adapted, unused]}, {"params": [plain], "adapt": False}], lr=1.0, momentum=0.0)
    adapted.grad = plain.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(adapted.detach(), torch.full((2, 2), 1 - 1e-3))
    torch.testing.assert_close(plain.detach(), torch.zeros(2, 2))
    assert torch.equal(unused.detach(), torch.ones(2, 2))


def test_a_closure_is_called_with_gradients_on():
    weight = nn.Parameter(torch.ones(3))
    optimizer = LAMB([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert (weight < 1).all()


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (LARS, {"lr": -1.0}, "LARS: lr must be at least 0, got -1.0"),
        (LARS, {"lr": float("nan")}, "lr must be"),
        (LARS, {"lr": 1.0, "momentum": 1.0}, "momentum and betas must be at least 0 and below 1"),
        (LARS, {"lr": 1.0, "clip": 0.0}, "clip must be above 0"),
        (LAMB, {"lr": 1.0, "betas": (0.9, 1.0)}, "below 1, got 1.0"),
        (LAMB, {"lr": 1.0, "weight_decay": -0.1}, "weight_decay must be"),
    ],
)
def test_settings_out_of_range(kind, wrong, message):
    with pytest.raises(UsageError, match=message):
        kind([nn.Parameter(torch.ones(2))], **wrong)


@pytest.mark.parametrize("kind", [LARS, LAMB])
def test_sparse_gradients_are_refused_before_anything_moves(kind):
    table = nn.Embedding(4, 2, sparse=True)
    before = table.weight.detach().clone()
    table(torch.tensor([1])).sum().backward()
    optimizer: LayerwiseOptimizer = kind(table.parameters(), lr=1.0)
    with pytest.raises(UsageError, match="takes dense gradients"):
        optimizer.step()
    assert torch.equal(table.weight.detach(), before)
