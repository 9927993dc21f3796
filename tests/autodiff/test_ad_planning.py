"""Plans for training steps: against the recursion itself, solved exactly, and in steps that follow them."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.autodiff import MemoryLimitError, explain
from thrifty.autodiff.blocks import cut
from thrifty.autodiff.meter import LiveMeter
from thrifty.autodiff.operations import operation
from thrifty.autodiff.planning import SLOTS, block_plan, least_of_blocks
from thrifty.autodiff.trace import Trace
from thrifty.core.errors import UsageError

SIN = operation(torch.ops.aten.sin.default)


def chain(sizes, seconds, gradients):
    """Operation i reads content i - 1, and backward needs that."""
    trace = Trace()
    for at, (nbytes, cost) in enumerate(zip(sizes, seconds, strict=True)):
        trace.operations.append(SIN)
        trace.seconds.append(cost)
        trace.reads.append((at - 1,) if at else ())
        trace.makes.append((at,))
        trace.nbytes.append(nbytes)
        trace.home.append(at)
        if at:
            trace.saved.append((at, at - 1))
            trace.gradient_bytes[at - 1] = gradients
    return trace


def exact(blocks, room):
    """C(0, n - 1, room) by the recursion of `planning`, without tables."""

    @cache
    def cost(s, t, m):
        inside = blocks.size(blocks.wanted[s] & ~blocks.state[s]) + blocks.backward_bytes[s]
        best = float("inf")
        if m >= max(inside, blocks.forward_bytes[s]):
            if s == t:
                return 0.0
            for option in blocks.options[s]:
                used = blocks.size((option.keep | blocks.state[s + 1]) & ~blocks.state[s])
                if used <= m:
                    best = min(best, option.seconds + cost(s + 1, t, m - used))
        for k in range(s + 1, t + 1):
            most = max(blocks.size(blocks.state[i] & ~blocks.state[s]) + blocks.forward_bytes[i] for i in range(s, k))
            used = blocks.size(blocks.state[k] & ~blocks.state[s])
            if most <= m and used <= m:
                again = float(blocks.forward_s[s:k].sum())
                best = min(best, again + cost(k, t, m - used) + cost(s, k - 1, m))
        return best

    return cost(0, blocks.count - 1, room)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=9),
    gradients=st.integers(0, 10),
    room=st.integers(5, 60),
    data=st.data(),
)
def test_the_table_is_the_recursion(sizes, gradients, room, data):
    seconds = [data.draw(st.integers(1, 9)) * 1.0 for _ in sizes]
    trace = chain(sizes, seconds, gradients)
    assert room < SLOTS  # so that a slot is a byte and nothing is rounded
    blocks = cut(trace)
    expected = exact(blocks, room)
    plan = block_plan(trace, room)
    assert (plan is None) == (expected == float("inf"))
    if plan is not None:
        assert np.isclose(plan.again_s, expected)
        assert plan.peak_bytes <= room
        for block, held in enumerate(plan.at):
            assert set(np.flatnonzero(blocks.wanted[block])) <= held, "what a block needs is there when it is reversed"
    least = least_of_blocks(trace, 250)
    assert least is not None and block_plan(trace, least) is not None


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(6):
        layers += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return model, torch.randn(8, 3, 16, 16), torch.randint(4, (8,))


class Recurrent(nn.Module):
    """Loops for as long as it is told."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        state = None
        for turn in range(x.shape[1]):
            state = self.cell(x[:, turn], state)
        return self.head(state[0])


def train(model, batches, limit=None):
    """Train; returns all gradients, buffers, contexts and metered peaks."""
    torch.manual_seed(1)
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found, contexts, peaks = [], [], []
    for inputs, labels in batches:
        with LiveMeter() as meter:
            if limit is None:
                nn.functional.cross_entropy(model(inputs), labels).backward()
            else:
                with thrifty.checkpointing(f"{limit}B") as used:
                    nn.functional.cross_entropy(model(inputs), labels).backward()
                contexts.append((used, used.plan))
        peaks.append(meter.peak_bytes)
        found += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
    return [*found, *(buffer.clone() for buffer in model.buffers())], contexts, peaks


@pytest.mark.parametrize("fraction", [0.8, 0.6, 0.45])
def test_steps_that_follow_a_plan_have_the_bits_and_keep_the_limit(fraction):
    model, inputs, labels = network()
    batches = [(inputs, labels)] * 6
    plain, _, peaks = train(model, batches)
    limit = int(fraction * peaks[-1])
    ours, contexts, peaks = train(model, batches, limit)
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))
    assert max(peaks) <= 1.1 * limit
    used, plan = contexts[-1]
    assert plan is not None
    assert 0 < used.recomputed_ops <= used.operations, "here a plan runs nothing much more than twice"


def test_a_step_that_leaves_the_plan_is_still_exact_and_within_the_limit():
    torch.manual_seed(0)
    model = Recurrent()
    lengths = [40, 40, 40, 40, 40, 33, 40, 40, 47, 40, 40, 40]
    batches = [(torch.randn(32, n, 8), torch.randint(4, (32,))) for n in lengths]
    plain, _, peaks = train(model, batches)
    limit = int(0.5 * peaks[0])
    ours, contexts, peaks = train(model, batches, limit)
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))
    assert max(peaks) <= 1.1 * limit
    planned = [plan is not None for _, plan in contexts]
    assert planned[4] and not planned[5] and planned[-1]


def test_one_context_around_many_steps_keeps_no_record_of_old_ones():
    model, inputs, labels = network()
    with thrifty.checkpointing("1GiB") as used:
        for _ in range(4):
            nn.functional.cross_entropy(model(inputs), labels).backward()
            for parameter in model.parameters():
                parameter.grad = None
    assert used._store.handles == 0 and not used._store.kept
    assert used._store.live_bytes == 0


def test_a_limit_too_small_names_one_that_works():
    model, inputs, labels = network()
    with pytest.raises(MemoryLimitError, match="give it about") as caught:
        train(model, [(inputs, labels)] * 3, 200_000)
    needed = caught.value.needed_bytes
    plain, _, _ = train(model, [(inputs, labels)] * 3)
    ours, _, peaks = train(model, [(inputs, labels)] * 3, needed)
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))
    assert max(peaks) <= 1.1 * needed + inputs.shape[0] * 8 * 16 * 16 * 4, "and one operation's result"


def test_layers_under_reuse_are_exact_and_counted_once():
    torch.manual_seed(0)
    stock = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    inputs, labels = torch.rand(16, 3, 16, 16), torch.randint(10, (16,))

    def steps(limit):
        torch.manual_seed(2)
        model = copy.deepcopy(stock)
        applied = thrifty.apply_(model, [thrifty.Reuse()])
        found = []
        for _ in range(5):
            if limit is None:
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
            else:
                with thrifty.checkpointing(limit):
                    loss = nn.functional.cross_entropy(model(inputs), labels)
                    loss.backward()
            applied.step(loss.detach())
            found += [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
            model.zero_grad()
        return found, {name: (one.steps, one.macs, one.dense_macs) for name, one in applied.counters().items()}

    plain, counted = steps(None)
    for limit in (2, "8MiB"):
        ours, again = steps(limit)
        assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))
        assert again == counted


def test_explain_tells_of_a_training_step_and_draws_it(tmp_path):
    model, inputs, labels = network()

    def step():
        nn.functional.cross_entropy(model(inputs), labels).backward()
        model.zero_grad()

    with LiveMeter() as meter:
        step()
    limit = int(0.6 * meter.peak_bytes)
    told = explain(step, memory=f"{limit}B")
    assert told.plan is not None and told.peak_bytes <= 1.1 * limit < told.plain_peak_bytes
    assert told.recomputed_ops > 0 and "peak, predicted" in str(told)
    told.save(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").stat().st_size > 1000
    with pytest.raises(UsageError, match="bytes"):
        explain(step, memory="log")
