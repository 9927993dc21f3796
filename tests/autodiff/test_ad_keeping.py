"""Choices of what a training step keeps: least cuts against every choice there is, and steps that follow them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.autodiff.choosing import evened, least_bytes, make_plan
from thrifty.autodiff.keeping import Search, _Cut
from thrifty.autodiff.meter import LiveMeter
from thrifty.autodiff.mincut import Network
from thrifty.autodiff.operations import operation
from thrifty.autodiff.timeline import Timeline
from thrifty.autodiff.trace import Trace

SIN = operation(torch.ops.aten.sin.default)


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(3, 6), data=st.data())
def test_the_least_cut_is_the_least_of_all(nodes, data):
    arcs = data.draw(
        st.lists(
            st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1), st.integers(0, 9)), min_size=1, max_size=14
        )
    )
    network = Network(nodes)
    numbers = [network.arc(*arc) for arc in arcs]

    def check(arcs):
        def capacity(side):
            return sum(room for start, stop, room in arcs if side[start] and not side[stop])

        side = network.source_side()
        assert side[0] and not side[1]
        every = ((True, False, *rest) for rest in itertools.product((False, True), repeat=nodes - 2))
        assert capacity(side) == min(map(capacity, every))

    check(arcs)
    more = [(start, stop, room + data.draw(st.integers(0, 5))) for start, stop, room in arcs]
    for number, (_, _, room) in zip(numbers, more, strict=True):
        network.set_capacity(number, room)
    check(more)


def test_a_capacity_can_only_be_raised():
    network = Network(2)
    arc = network.arc(0, 1, 5)
    network.source_side()
    with pytest.raises(ValueError, match="raised"):
        network.set_capacity(arc, 4)


@st.composite
def traces(draw):
    """Up to eight operations, each of which reads some earlier contents, makes one or two, and may save some."""
    trace = Trace()
    for at in range(draw(st.integers(2, 6))):
        known = len(trace.nbytes)
        reads = draw(st.sets(st.integers(0, known - 1), max_size=2)) if known else set()
        made = tuple(range(known, known + draw(st.integers(1, 2))))
        trace.operations.append(SIN)
        trace.seconds.append(draw(st.integers(1, 9)) * 1e-3)
        trace.reads.append(tuple(sorted(reads)))
        trace.makes.append(made)
        trace.nbytes += [draw(st.integers(1, 9)) for _ in made]
        trace.home += [at] * len(made)
        for content in (*sorted(reads), *made):
            if draw(st.booleans()):
                trace.saved.append((at + (content in made), content))
    if not trace.saved:
        trace.saved.append((len(trace.operations), len(trace.nbytes) - 1))
    if draw(st.booleans()):
        trace.overwritten.add(draw(st.integers(0, len(trace.nbytes) - 1)))
    for place in range(len(trace.saved)):
        trace.gradient_bytes[place] = trace.entering_bytes[place] = draw(st.integers(0, 6))
    return trace


def every(timeline):
    """All choices of contents to keep."""
    able = [content for content in range(len(timeline.trace.nbytes)) if content not in timeline.trace.overwritten]
    for count in range(len(able) + 1):
        for kept in itertools.combinations(able, count):
            yield timeline.choose(kept)


@settings(max_examples=40, deadline=None)
@given(trace=traces(), price=st.floats(1e-5, 1e-2))
def test_a_cut_is_the_best_choice_for_its_price(trace, price):
    timeline = Timeline(trace)

    def cost(choice):
        return choice.again_s + price * sum(trace.nbytes[content] for content in choice.kept)

    found = timeline.choose(_Cut(timeline, set()).kept(price))
    best = min(map(cost, every(timeline)))
    assert found is not None
    assert best - 1e-9 <= cost(found) <= best + 1e-9


@settings(max_examples=40, deadline=None)
@given(trace=traces(), room=st.integers(10, 60))
def test_what_is_found_fits_and_is_never_better_than_the_best(trace, room):
    timeline = Timeline(trace)
    fitting = [choice.again_s for choice in every(timeline) if choice.peak_bytes <= room]
    search = Search(trace, room, ())
    if search.best is not None:
        assert search.best.peak_bytes <= room
        assert search.best.again_s >= min(fitting) - 1e-12
    needed = sum(trace.nbytes) + 6
    assert Search(trace, needed, ()).best.again_s == pytest.approx(min(c.again_s for c in every(timeline)))


@settings(max_examples=40, deadline=None)
@given(trace=traces())
def test_groups_make_each_missing_content_once_from_what_is_kept(trace):
    timeline = Timeline(trace)
    for choice in every(timeline):
        made = [content for group in choice.groups for content in group.contents]
        assert len(made) == len(set(made))
        assert set(made) | choice.kept >= set(timeline.wanted) and not set(made) & choice.kept
        for group in choice.groups:
            at_hand = set(group.sources)
            assert at_hand <= choice.kept
            for at in group.operations:
                assert set(trace.reads[at]) <= at_hand
                at_hand |= set(trace.makes[at])


def test_operations_that_do_the_same_cost_the_same():
    trace = Trace([SIN] * 3, [3.0, 1.0, 2.0], [(), (0,), (1,)], [(0,), (1,), (2,)], nbytes=[8, 8, 8], home=[0, 1, 2])
    assert evened(trace).seconds == [3.0, 1.0, 1.0]


def test_a_limit_below_all_plans_has_none_and_the_least_one_has():
    trace = Trace()
    for at in range(6):
        trace.operations.append(SIN)
        trace.seconds.append(1e-3)
        trace.reads.append((at - 1,) if at else ())
        trace.makes.append((at,))
        trace.nbytes.append(10)
        trace.home.append(at)
        trace.saved.append((at + 1, at))
        trace.gradient_bytes[at] = trace.entering_bytes[at] = 10
    assert make_plan(trace, 15) is None
    least = least_bytes(trace, 250)
    assert least is not None and make_plan(trace, least) is not None


# -- steps ----------------------------------------------------------------------------------------------------------


def turns(step, count, memory):
    """Gradients of `count` steps; `step(turn)` yields (loss, parameters)."""
    found, last = [], None
    for turn in range(count):
        if memory is None:
            loss, parameters = step(turn)
            found += torch.autograd.grad(loss, parameters)
        else:
            with thrifty.checkpointing(memory) as last:
                loss, parameters = step(turn)
                found += torch.autograd.grad(loss, parameters)
    return found, last


def test_what_a_plan_leaves_unnoted_may_flow_otherwise():
    torch.manual_seed(0)
    a, b = (torch.randn(4000, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def step(turn):
        one, other = a.sin(), b.sin()
        for layer in range(8):
            if turn > 5 and (turn + layer) % 3 == 0:
                one, other = other, one
            one, other = (one * other).tanh(), torch.exp(-other * other)
        return (one * other).sum(), (a, b)

    with LiveMeter() as meter:
        turns(step, 1, None)
    plain, _ = turns(step, 12, None)
    ours, used = turns(step, 12, f"{int(0.6 * meter.peak_bytes)}B")
    assert used.plan is not None and used.plan.groups is not None
    assert used.recomputed_ops > 0
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))


def test_what_a_plan_leaves_unnoted_may_be_written_over():
    torch.manual_seed(0)
    a = torch.randn(4000, dtype=torch.float64, requires_grad=True)

    def step(turn, in_place=True):
        one, spare = a.sin(), a.detach().clone()
        for layer in range(8):
            two = (one * a + 0.1).relu_()
            side = two * a
            # From the sixth turn on, the same operation writes over what autograd saved: plain autograd refuses that.
            target = two if turn > 5 and layer == 4 else spare
            if in_place:
                target.mul_(1.0)
                target.add_(0.5)
            elif target is two:
                two = two * 1.0 + 0.5
            one = two + side
        return one.sum(), (a,)

    with LiveMeter() as meter:
        turns(step, 1, None)
    expected, _ = turns(lambda turn: step(turn, in_place=False), 10, None)
    ours, used = turns(step, 10, f"{int(0.6 * meter.peak_bytes)}B")
    assert used.recomputed_ops > 0
    assert all(torch.equal(one, other) for one, other in zip(expected, ours, strict=True))


@pytest.mark.parametrize("longer", [33, 47])
def test_a_loop_of_another_length_leaves_the_plan(longer):
    torch.manual_seed(0)
    cell = nn.LSTMCell(8, 32)
    inputs = torch.randn(16, 50, 8)

    def step(turn):
        state = None
        for at in range(longer if turn in (5, 9) else 40):
            state = cell(inputs[:, at], state)
        return state[0].square().sum(), tuple(cell.parameters())

    with LiveMeter() as meter:
        turns(step, 1, None)
    plain, _ = turns(step, 12, None)
    ours, used = turns(step, 12, f"{int(0.6 * meter.peak_bytes)}B")
    assert used.recomputed_ops > 0
    assert all(torch.equal(one, other) for one, other in zip(plain, ours, strict=True))


def test_a_step_without_backward_leaves_nothing_alive():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)))
    inputs = torch.randn(1024, 64)

    def step(turn):
        return model(inputs).square().sum(), tuple(model.parameters())

    with LiveMeter() as meter:
        turns(step, 1, None)
    memory = f"{int(0.7 * meter.peak_bytes)}B"
    turns(step, 5, memory)
    with LiveMeter() as meter:
        for _ in range(5):
            with thrifty.checkpointing(memory):
                loss = model(inputs).square().sum()
            del loss
        assert meter.live_bytes == 0
