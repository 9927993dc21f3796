"""plan: what is tried, what is chosen, and that the model stays as it was."""

import copy
import json

import pytest
import torch
from torch import nn

from thrifty import Plan, Reuse, plan
from thrifty.compose.candidate import Candidate
from thrifty.core.errors import ModelError, UsageError


def build():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 16, 5),
    )  # fmt: skip


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 8, 8, generator=random), torch.randint(5, (6,), generator=random)


def quick(model, batch, **settings):
    return plan(model, batch, **{"budget_s": 0.01, "methods": [Reuse()], **settings})


def test_everything_is_tried_and_measured(batch):
    told = []
    found = quick(build(), batch, progress=told.append)
    names = [option.name for option in found.options]
    assert names[:3] == ["dense", "reuse", "dense@bf16"]
    assert names[3:] in ([], ["reuse@bf16"])  # together only where both help
    assert told == names
    assert found["dense"].speedup == 1.0
    assert all(option.step_s > 0 and option.saved_bytes > 0 for option in found.options)
    assert found["dense"].gradient_error == 0.0  # dropout drew alike
    assert found["reuse"].gradient_error < 1e-5
    assert 1e-4 < found["dense@bf16"].gradient_error < 0.1
    assert found["reuse"].changed_layers == 1
    assert found.steps >= 5
    assert found.unrest >= 1.0
    assert found.sent_bytes == 4 * sum(parameter.numel() for parameter in build().parameters())


def test_what_helped_is_tried_together_and_told_once(batch, monkeypatch):
    monkeypatch.setattr(Candidate, "helps", lambda one: bool(one.combination.methods) or one.combination.amp == "bf16")
    told = []
    found = quick(build(), batch, progress=told.append)
    assert told == [option.name for option in found.options] == ["dense", "reuse", "dense@bf16", "reuse@bf16"]
    assert found["reuse@bf16"].step_s > 0 and found["reuse@bf16"].methods == found["reuse"].methods


def test_layers_say_what_became_of_them(batch):
    layers = {layer.cost.layer: layer for layer in quick(build(), batch).layers}
    assert list(layers) == ["0", "1", "2", "3", "4", "5", "6"]
    assert layers["0"].verdicts["reuse"].startswith("changed")
    assert layers["6"].verdicts["reuse"].startswith("dense: ")
    assert layers["0"].method_s["reuse"] > 0
    assert not layers["1"].verdicts
    assert all(layer.dense_s > 0 for layer in layers.values())


def test_the_model_and_the_random_numbers_stay_as_they_were(batch):
    model = build()
    before, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    state = torch.get_rng_state()
    quick(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == kinds
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_choice_keeps_to_the_error_that_is_allowed(batch):
    found = quick(build(), batch, max_error=1e-9, methods=[], precisions=["bf16"])
    assert found.best == "dense"
    assert "above 1e-09" in found["dense@bf16"].reason
    assert found["dense@bf16"].step_s > 0  # measured all the same


def test_the_choice_is_the_fastest_that_is_allowed(batch):
    found = quick(build(), batch, max_error=1.0)
    fit = [option for option in found.options[1:] if option.speedup >= 1.03]
    assert found.choice.name == max(fit, key=lambda option: option.speedup, default=found["dense"]).name


def test_a_method_without_an_effect_is_named_and_out(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    found = quick(model, batch, precisions=["none"])
    assert found["reuse"].reason == "it changes no layer of this model"
    assert found["reuse"].step_s is None
    assert "Reuse(linear=True) changes it" in found.layers[1].verdicts["reuse"]  # why, all the same
    assert found.best == "dense"


def test_own_losses_and_optimizers_are_taken(batch):
    made = []

    def make(model):
        made.append(torch.optim.AdamW(model.parameters(), lr=1.0))
        return made[-1]

    model, (x, _) = build(), batch
    found = quick(model, {"x": x}, loss_fn=lambda net, batch: net(batch["x"]).square().mean(), make_optimizer=make)
    assert found["reuse"].step_s > 0
    assert {optimizer.param_groups[0]["lr"] for optimizer in made} == {0.0}


def test_targets_of_every_kind(batch):
    x, _ = batch
    regression = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    assert quick(regression, (x, torch.randn(6, 2)), methods=[]).options[0].step_s > 0
    tagging = nn.Linear(8, 5)  # (B, C, H, W) -> a class for each row of pixels
    assert quick(tagging, (x, torch.randint(5, (6, 3, 8))), methods=[]).options[0].step_s > 0


def test_a_plan_is_plain_data(batch):
    found = quick(build(), batch)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["best"] == found.best
    assert data["options"][1]["methods"][0]["_type"] == "Reuse"
    assert Plan.from_dict(data) == found
    for damaged in ({}, {**data, "best": "lsh"}, {**data, "layers": [1]}, {**data, "options": [{"name": "dense"}]}):
        with pytest.raises(UsageError):
            Plan.from_dict(damaged)
    with pytest.raises(UsageError, match="no option 'lsh' was tried; tried: dense, reuse"):
        found["lsh"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precisions": ["fp8"]}, "choose among none, bf16"),
        ({"precisions": []}, "choose among"),
        ({"budget_s": 0.0}, "budget_s=0.0 must be above 0"),
        ({"max_error": -1.0}, "max_error=-1.0"),
    ],
)
def test_settings_out_of_range(batch, settings, message):
    with pytest.raises(UsageError, match=message):
        quick(build(), batch, **settings)


class _Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        raise ValueError("not today")


class _Uncopied(_Raises):
    def __deepcopy__(self, memo):
        raise TypeError("one of its kind")


def test_models_that_cannot_be_tried(batch):
    with pytest.raises(UsageError, match=r"takes a torch\.nn\.Module"):
        quick("net", batch)
    with pytest.raises(UsageError, match="no parameter that is trained"):
        quick(build().requires_grad_(False), batch)
    with pytest.raises(ModelError, match=r"training step of dense fails: ValueError: not today"):
        quick(_Raises(), batch)
    with pytest.raises(ModelError, match=r"cannot be copied.*one of its kind"):
        quick(_Uncopied(), batch)
    with pytest.raises(UsageError, match="give loss_fn"):
        quick(build(), batch[0])


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_refused(batch):
    model = build()
    model.compile()
    with pytest.raises(ModelError, match=r"compiled: call thrifty\.plan"):
        quick(model, batch)
