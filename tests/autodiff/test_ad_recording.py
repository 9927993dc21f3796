"""The record and its replay: what the short ways must not change."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import thrifty
from thrifty.autodiff import explain, steps
from thrifty.autodiff.marks import Mark
from thrifty.autodiff.placement import Online
from thrifty.autodiff.recorder import Recorder
from thrifty.autodiff.snapshot import Snapshot
from thrifty.autodiff.state import State, run

D = torch.float64


def plain(f, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


def rotations(x):
    """Views taken apart and put together again, as in a simulation."""
    for turn in range(12):
        y = (x * x).sum().sqrt()
        a, b = x.view(-1, 2).unbind(1)
        x = torch.stack((y.cos() * a - y.sin() * b, y.sin() * a + y.cos() * b), 1).view(-1)
        x = x.roll(1 if turn % 3 else -1) * (1 + 0.01 * turn)
    return (x * x * x).sum()


def constants_among(x):
    """Values that carry no derivative, and views that are taken anew at each turn."""
    scale = torch.linspace(0.5, 1.5, 6, dtype=D)
    grid = torch.zeros(6, dtype=D)
    for turn in range(15):
        grid = grid + scale.view(2, 3).t().reshape(6) * 0.1
        left, right = x[:3], x[3:]
        x = torch.cat((right * grid[:3].exp(), left.sin())) + grid.max(0).values
        if turn % 4 == 3:
            x = x / x.detach().norm()
    return x.square().sum()


def written_to(x):
    """Writes to views while other views of the same memory are in use."""
    buffer = x * 1.0
    for turn in range(10):
        row = buffer.view(2, 3)
        row[turn % 2].mul_(1.0 + 0.1 * turn)
        buffer[2:4] += row[0, :2].clone().sin()
        buffer = buffer.flip(0) * 0.9
    return (buffer * buffer).sum()


def moved(x):
    """A tensor object that changes its own shape, and whose place other views take."""
    total = x.sum()
    for turn in range(6):
        y = (x * (1 + turn)).view(2, 3)
        other = y.t()
        y.t_()
        y.unsqueeze_(0)
        total = total + (y.squeeze(0) @ torch.ones(2, dtype=D)).cos().sum() + (other * y[0]).sum()
        x = (y[0].t().reshape(6) + other.t().reshape(6)).tanh()
    return total


@pytest.mark.parametrize("often", [1, 4, 10**9], ids=["functions", "as it is", "one by one"])
@pytest.mark.parametrize("program", [rotations, constants_among, written_to, moved], ids=lambda f: f.__name__)
def test_steps_give_the_gradient_of_autograd_whichever_way_they_run(monkeypatch, program, often):
    monkeypatch.setattr(steps, "OFTEN", often)
    x = torch.linspace(-1, 1.5, 6, dtype=D)
    expected = plain(program, x)
    # Where views and their base are used in turn, a segment's end is another place to add up than autograd's.
    rtol = 1e-13 if program in (written_to, moved) else 0
    for memory in (1, 3, 8, "log", "64KiB"):
        gradient = thrifty.grad(program, memory=memory)
        for _ in range(2):  # the second call knows the length
            assert torch.allclose(gradient(x), expected, rtol=rtol, atol=0), memory


@pytest.mark.parametrize("program", [rotations, constants_among], ids=lambda f: f.__name__)
def test_a_step_as_a_function_leaves_the_state_that_its_instructions_leave(program):
    recorder = Recorder(lambda _: None)
    x = torch.linspace(-1, 1.5, 6, dtype=D)
    with recorder:
        recorder.add_input(x)
        program(x)
    recorder.close()
    states = []
    for threshold in (1, 10**9):
        state = State(Snapshot(0, {}, {}, set(), {}))
        state.registers.update({register: tensor for register, (tensor, _, _) in recorder.externals.items()})
        found = []
        recorder.program.forget_plain()
        before, steps.OFTEN = steps.OFTEN, threshold
        try:
            for number in range(recorder.program.steps):
                run(recorder.program, state, [recorder.program.step(number)])
                found.append((
                    {r: t.tolist() for r, t in state.registers.items()}, dict(state.roots), set(state.inactive)
                ))  # fmt: skip
        finally:
            steps.OFTEN = before
        states.append(found)
    assert states[0] == states[1]


@pytest.mark.parametrize("program", [rotations, constants_among, written_to, moved], ids=lambda f: f.__name__)
def test_the_way_a_step_runs_changes_no_bit(monkeypatch, program):
    x = torch.linspace(-1, 1.5, 6, dtype=D)
    found = []
    for often in (1, 10**9):
        monkeypatch.setattr(steps, "OFTEN", often)
        found.append(thrifty.grad(program, memory=3)(x))
    assert torch.equal(*found)


def test_arguments_that_differ_in_a_sign_or_a_type_only_are_told_apart():
    def f(x):
        total = x.sum() * 0
        for sign in (0.0, -0.0):
            turned = x * complex(1.0, sign)
            total = total + torch.copysign(x, turned.imag).sum()
        for keep in (True, False):
            total = total + (x.view(2, 3).sum(1, keepdim=keep) * torch.ones(2, dtype=D)).sum()
        for power in (2, 2.0, 3):
            total = total + (x**power).sum()
        return total

    x = torch.linspace(1, 2, 6, dtype=D)
    for memory in (1, 4):
        assert torch.equal(thrifty.grad(f, memory=memory)(x), plain(f, x))


class Pretended:
    """As much of a recorder as the rule looks at."""

    def __init__(self):
        self.snapshots = [Mark(0, {}, {})]
        self.program = type("", (), {"steps": 0})()
        self.largest_step_bytes = self.live_bytes = 0

    def snapshot(self):
        return Mark(self.program.steps, {}, {})


def by_the_book(places, levels, step, most):
    """The rule as it is published: of those with one of a higher level behind them the latest goes."""
    places, levels, level = list(places), list(levels), 0
    while len(places) >= most and len(places) > 1:
        spare = [at for at in range(1, len(places)) if any(later > levels[at] for later in levels[at + 1 :])]
        at = spare[-1] if spare else len(places) - 1
        if not spare:
            level = max(level, levels[at] + 1)
        del places[at], levels[at]
    return [*places, step], [*levels, level]


@settings(max_examples=60, deadline=None)
@given(most=st.integers(1, 9), length=st.integers(1, 150), shrink=st.integers(0, 150))
def test_the_online_rule_keeps_what_the_book_says(most, length, shrink):
    allowed = {"most": most}
    rule, recorder = Online(lambda r, _: len(r.snapshots) >= allowed["most"]), Pretended()
    places, levels = [0], [0]
    for step in range(1, length + 1):
        if step == shrink:
            allowed["most"] = max(1, most - 3)
        recorder.program.steps = step
        rule(recorder)
        places, levels = by_the_book(places, levels, step, allowed["most"])
        assert [mark.step for mark in recorder.snapshots] == places
        assert [mark.level for mark in recorder.snapshots] == levels


def test_under_a_limit_in_bytes_many_small_steps_are_taped_at_once():
    def f(x):
        for _ in range(600):
            x = x.sin()
        return x.sum()

    x = torch.randn(100)
    told = explain(f, x, memory="256KiB")
    assert told.account.snapshots < 100
    assert sum(event[0] == "tape" for event in told.account.events) <= 20
    assert torch.equal(thrifty.grad(f, memory="256KiB")(x), plain(f, x))


def test_a_long_program_takes_little_memory_besides_torch_itself():
    """In a process of its own: 100,000 operations, and what a first derivative imports."""
    script = """
import sys, torch, thrifty
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) << 10
def f(x):
    for _ in range(20_000):
        x = torch.sin(1.01 * x) + 0.1 * torch.tanh(x)
    return x.sum()
known = set(sys.modules)
before = resident()
gradient = thrifty.grad(f, memory="log")
gradient(torch.ones(1))
assert gradient.account.operations > 99_000, gradient.account.operations
assert "sympy" in known or "sympy" not in sys.modules
assert resident() - before < 24 << 20, resident() - before
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
