"""The example programs: each gradient equals that of plain reverse mode, in a twentieth of its memory."""

import importlib.util
from pathlib import Path

import pytest
import torch

import thrifty
from thrifty.autodiff.meter import LiveMeter

EXAMPLES = Path(__file__).parents[2] / "examples" / "autodiff"
D = torch.float64


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def adaptive_computation(module):
    weights, x = module.make_weights(24), torch.randn(16, 24)
    target = torch.sin(x)
    return lambda w: module.loss(w, x, target, 200.0)[0], weights


def adaptive_user(module):
    tasks, interface = torch.randn(60, 16), 0.3 * torch.randn(16, 16)
    return lambda i: module.cost_of_design(i, tasks, 150), interface


def written_program(module):
    x, parameters = torch.randn(400), torch.randn(8, 3)
    parameters[:, 0] = torch.tensor([1.0, 0.2, -1.0, 1.0, 1.0, 0.2, -1.0, 1.0])  # rotates, mixes and more
    return lambda p: module.loss(p, x, torch.ones(400), 250), parameters


def hypergradients(module):
    weights, data = module.problem()
    settings = (torch.full((1000,), 0.02), torch.tensor(0.5))
    return lambda s: module.validation_loss(s, weights, data, 32), settings


def bouncing(module):
    start = torch.stack((torch.linspace(-1, 1, 200), torch.ones(200)), 1).double()
    throw = torch.tensor([[2.0, 3.0]] * 200, dtype=D) + 0.1 * torch.randn(200, 2, dtype=D)
    target = torch.tensor([1.0, 0.5], dtype=D)
    return lambda t: module.miss(t, start, target, 0.6, 0.002)[0], throw


PROGRAMS = (adaptive_computation, adaptive_user, bouncing, hypergradients, written_program)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_gradient_of_plain_reverse_mode_in_a_twentieth_of_its_memory(program):
    torch.manual_seed(0)
    objective, at = program(load(program.__name__))
    found, peaks = {}, {}
    for memory in (None, "log"):
        with LiveMeter() as meter:
            found[memory] = thrifty.grad(objective, memory=memory)(at)
        peaks[memory] = meter.peak_bytes
    leaves = [torch.utils._pytree.tree_leaves(found[memory]) for memory in (None, "log")]
    for plain, ours in zip(*leaves, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-4 if plain.dtype == torch.float32 else 1e-9, atol=1e-7)
        assert plain.abs().max() > 0
    assert peaks[None] >= 20 * peaks["log"], (peaks[None], peaks["log"])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_program_runs(program, capsys):
    module = load(program.__name__)
    module.main(turns=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert "nan" not in line
