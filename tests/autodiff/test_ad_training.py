"""`checkpointing` around ordinary training steps: the bits of the plain step, within the limit."""

import pytest
import torch
from torch import nn

import thrifty
from thrifty.autodiff import MemoryLimitError, ReplayError
from thrifty.core.errors import UsageError


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        y = nn.functional.relu_(self.norm(self.first(x)))
        return nn.functional.relu_(self.second(y) + x)


def residual():
    layers = [nn.Conv2d(3, 8, 3, padding=1), *(Block(8) for _ in range(5)), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), torch.randn(4, 3, 16, 16)


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    stack = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(stack, nn.Flatten(), nn.Linear(16 * 12, 4)), torch.randn(4, 12, 16)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        state = None
        for turn in range(x.shape[1]):
            state = self.cell(x[:, turn], state)
        return self.head(state[0])


def recurrent():
    return Recurrent(), torch.randn(4, 30, 6)


MODELS = {"residual": residual, "transformer": transformer, "recurrent": recurrent}


def steps(name, context, autocast=False, count=2):
    """Train for some steps; return losses, gradients of the last, parameters and buffers."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    labels = torch.randint(4, (inputs.shape[0],))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(count):
        with context() as used:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(model(inputs).float(), labels)
            loss.backward()
        losses.append(loss.detach())
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
    return [*losses, *gradients, *(t.detach() for t in model.state_dict().values())], used


class Nothing:
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16 autocast"])
@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_the_plain_step_at_half_its_memory(name, autocast):
    plain, _ = steps(name, Nothing, autocast)
    roomy, used = steps(name, lambda: thrifty.checkpointing("1GiB"), autocast)
    assert all(torch.equal(one, other) for one, other in zip(plain, roomy, strict=True))
    assert used.recomputed_ops == 0
    limit = int(0.6 * used.peak_bytes)
    tight, held = steps(name, lambda: thrifty.checkpointing(f"{limit}B"), autocast)
    assert all(torch.equal(one, other) for one, other in zip(plain, tight, strict=True))
    assert held.recomputed_ops > 0
    assert held.peak_bytes <= 1.1 * limit


@pytest.mark.parametrize("memory", [2, "log"], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_number_of_contents(name, memory):
    plain, _ = steps(name, Nothing)
    kept, used = steps(name, lambda: thrifty.checkpointing(memory))
    assert all(torch.equal(one, other) for one, other in zip(plain, kept, strict=True))
    assert used.recomputed_ops > 0


def test_the_loss_may_be_reversed_after_the_context_and_twice():
    x = torch.randn(50, requires_grad=True)

    def f(x):
        for _ in range(40):
            x = torch.sin(x) * x
        return x.sum()

    (expected,) = torch.autograd.grad(f(x), x)
    with thrifty.checkpointing(3):
        y = f(x)
    assert torch.equal(torch.autograd.grad(y, x, retain_graph=True)[0], expected)
    assert torch.equal(torch.autograd.grad(y, x)[0], expected)


def test_double_backward():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)

    def second(context):
        with context:
            y = x
            for _ in range(12):
                y = torch.sin(y) * x
            (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return torch.autograd.grad((first * first).sum(), x)[0]

    plain = second(Nothing())
    context = thrifty.checkpointing(4)
    assert torch.equal(second(context), plain)
    assert context.recomputed_ops > 0


def test_in_place_changes_of_saved_values_are_seen():
    x = torch.randn(30, requires_grad=True)
    with thrifty.checkpointing(2):
        y = x.exp()
        z = y.sin()
        y.mul_(2)  # plain autograd refuses this; here the old content is made again
        loss = (z + y).sum()
        (found,) = torch.autograd.grad(loss, x)
    expected = x.exp().cos() * x.exp() + 2 * x.exp()
    assert torch.allclose(found, expected.detach())


def test_a_parameter_changed_before_backward_is_refused():
    weight = torch.randn(4, requires_grad=True)
    with thrifty.checkpointing(2):
        loss = (weight.sin() * weight).sum()
        with torch.no_grad():
            weight.add_(1)
        with pytest.raises(ReplayError, match="changed in place"):
            loss.backward()


def test_bad_use():
    with pytest.raises(UsageError, match="None"):
        thrifty.checkpointing(None)
    with pytest.raises(UsageError, match="memory="):
        thrifty.grad(lambda x: _inside(x))(torch.ones(2))
    leaf = torch.randn(100_000, requires_grad=True)
    with pytest.raises(MemoryLimitError, match="too small"), thrifty.checkpointing("100kB"):
        (leaf.sin() * leaf).sum().backward()
    assert torch._C._len_torch_dispatch_stack() == 0


def _inside(x):
    with thrifty.checkpointing(2):
        return x.sum()
