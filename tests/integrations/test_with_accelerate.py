"""accelerate, the real one: on one process and on two, with accumulated batches and its own checkpoints."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_images import METHODS, images, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thrifty
from thrifty.reuse import ReuseConv2d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own imports warn of is theirs
    accelerate = pytest.importorskip("accelerate")
    from thrifty.integrations.accelerate import apply_with


@pytest.fixture(autouse=True)
def fresh():
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def train(accelerator, epochs: int, *, begin: Path | None = None, end: Path | None = None):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    methods = apply_with(accelerator, model, METHODS, optimizer=optimizer)
    loader = DataLoader(TensorDataset(*images()), batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if begin:
        accelerator.load_state(str(begin))
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                methods.step(loss)
            losses.append(loss.item())
    if end:
        accelerator.save_state(str(end))
    return losses, methods.applied, accelerator.unwrap_model(model)


def test_methods_are_applied_and_stepped():
    losses, applied, model = train(accelerate.Accelerator(cpu=True), 2)
    assert isinstance(model[0], ReuseConv2d) and applied.steps == len(losses) == 12
    assert applied.events and losses[-1] < losses[0]
    thrifty.remove_(model)


def test_accumulated_batches_are_one_step():
    losses, applied, _ = train(accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3), 1)
    assert applied.steps == 2 and len(losses) == 6


def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    whole, of_whole, _ = train(accelerate.Accelerator(cpu=True), 2)
    first, _, _ = train(accelerate.Accelerator(cpu=True), 1, end=tmp_path / "state")
    rest, of_rest, _ = train(accelerate.Accelerator(cpu=True), 1, begin=tmp_path / "state")
    assert first + rest == whole
    assert of_rest.events == of_whole.events and of_rest.steps == of_whole.steps


TWO = """
import json, sys
sys.path.insert(0, sys.argv[1])
import accelerate, torch
from test_with_accelerate import train
torch.set_num_threads(1)
accelerator = accelerate.Accelerator(cpu=True)
losses, applied, model = train(accelerator, 2)
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
both = accelerator.gather(weights.unsqueeze(0))
told = {"processes": accelerator.num_processes, "steps": applied.steps, "losses": losses,
        "events": [(event.step, event.what) for event in applied.events],
        "apart": float((both[0] - both[-1]).abs().max())}
with open(f"{sys.argv[2]}/{accelerator.process_index}.json", "w") as file:  # two prints can share a line
    json.dump(told, file)
accelerator.end_training()
"""


def test_two_processes_move_alike(tmp_path):
    """Each sees other images, and the mean of their losses moves the methods of both in the same step."""
    here = Path(__file__).parent
    script = tmp_path / "two.py"
    script.write_text(TWO)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(here), str(tmp_path)]
    run = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=600,
        env={
            **os.environ, "PYTHONPATH": str(here.parent / "support"), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1",
        },
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["processes"] == 2 and first["steps"] == second["steps"] == 6
    assert first["events"] == second["events"] != []
    assert first["losses"] != second["losses"] and first["apart"] == 0
