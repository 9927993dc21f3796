"""The Trainer of transformers, the real one: the methods see every step, and travel with its checkpoints."""

import warnings
from pathlib import Path

import pytest
import torch
from small_images import METHODS, images, network
from torch import nn

import thrifty
from thrifty.core.errors import CheckpointError, NonFiniteError
from thrifty.reuse import ReuseConv2d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what their own imports warn of is theirs
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from thrifty.integrations.transformers import STATE_NAME, apply_to_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*(pin_memory|safetensors|Repo card)")
STEPS_PER_EPOCH = 6


class Classifier(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.model, self.factor = network(), factor

    def forward(self, x, labels):
        logits = self.model(x)
        return {"loss": nn.functional.cross_entropy(logits, labels) * self.factor, "logits": logits}


def examples() -> list[dict]:
    return [{"x": x, "labels": y} for x, y in zip(*images(), strict=True)]


def trainer(folder: Path, model: nn.Module | None = None, **settings):
    plain = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 0.01, "seed": 0, "use_cpu": True,
        "report_to": "none", "save_strategy": "epoch", "disable_tqdm": True, "label_names": ["labels"],
        "logging_strategy": "no",
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **{**plain, **settings})
    return transformers.Trainer(model or Classifier(), arguments, train_dataset=examples())


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_methods_are_applied_and_stepped(tmp_path):
    made = trainer(tmp_path)
    applied = apply_to_trainer(made, METHODS)
    made.train()
    assert isinstance(made.model.model[0], ReuseConv2d)
    assert applied.steps == 2 * STEPS_PER_EPOCH and applied.events
    assert all(counters.steps == 2 * STEPS_PER_EPOCH for counters in applied.counters().values())


def test_accumulated_batches_are_one_step_with_their_mean(tmp_path):
    seen = []
    made = trainer(tmp_path, gradient_accumulation_steps=3, num_train_epochs=1, learning_rate=1e-12)
    applied = apply_to_trainer(made, METHODS)
    inner = applied.step
    applied.step = lambda loss: (seen.append(float(loss)), inner(loss))[1]
    made.train()
    assert applied.steps == 2 and len(seen) == 2
    # Nothing was learnt, so every loss is about that of the first weights.
    assert seen[0] == pytest.approx(1.1, abs=0.4)


def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    whole = trainer(tmp_path / "whole")
    of_whole = apply_to_trainer(whole, METHODS)
    whole.train()
    half = trainer(tmp_path / "half")
    apply_to_trainer(half, METHODS)
    half.add_callback(Stop())
    half.train()
    resumed = trainer(tmp_path / "half")
    of_resumed = apply_to_trainer(resumed, METHODS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / f"checkpoint-{STEPS_PER_EPOCH}"))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole.model), weights(resumed.model), strict=True))
    assert of_resumed.events == of_whole.events and of_resumed.steps == of_whole.steps


class Stop(transformers.TrainerCallback):
    def on_epoch_end(self, args, state, control, **_):
        control.should_training_stop = True


def half_trained(folder: Path) -> Path:
    half = trainer(folder, num_train_epochs=1)
    apply_to_trainer(half, METHODS)
    half.train()
    return folder / f"checkpoint-{STEPS_PER_EPOCH}"


def test_without_their_state_the_methods_begin_anew_with_a_warning(tmp_path):
    checkpoint = half_trained(tmp_path)
    (checkpoint / STATE_NAME).unlink()
    resumed = trainer(tmp_path)
    applied = apply_to_trainer(resumed, METHODS)
    with pytest.warns(UserWarning, match="the methods begin anew"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert applied.steps == STEPS_PER_EPOCH


def test_a_damaged_state_is_told(tmp_path):
    checkpoint = half_trained(tmp_path)
    (checkpoint / STATE_NAME).write_bytes(b"PK\x03\x04nothing")
    resumed = trainer(tmp_path)
    apply_to_trainer(resumed, METHODS)
    with pytest.raises(CheckpointError, match=r"thrifty\.pt is damaged"):
        resumed.train(resume_from_checkpoint=str(checkpoint))


def test_a_loss_that_is_not_finite_is_told(tmp_path):
    made = trainer(tmp_path, Classifier(factor=float("nan")))
    apply_to_trainer(made, METHODS)
    with pytest.raises(NonFiniteError):
        made.train()


def test_the_stock_model_comes_back(tmp_path):
    made = trainer(tmp_path, num_train_epochs=1)
    apply_to_trainer(made, METHODS)
    made.train()
    thrifty.remove_(made.model)
    assert type(made.model.model[0]) is nn.Conv2d
