"""Precision: what runs in which format, masters that keep what 16 bits lose, steps skipped on overflow, checkpoints."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from thrifty import models
from thrifty.core.errors import CheckpointError, ModelError, UsageError
from thrifty.core.machine import cpu_flags
from thrifty.distributed.precision import MixedPrecision, Precision, PrecisionWarning

# fp16 is for GPUs; here it shows what the policy does.
pytestmark = pytest.mark.filterwarnings("ignore::thrifty.distributed.precision.PrecisionWarning")

POLICIES = {
    "fp32": Precision(),
    "bf16": Precision("bf16"),
    "bf16 weights": Precision("bf16", weights="compute"),
    "fp16": Precision("fp16", init_scale=256.0),
    "fp16 weights": Precision("fp16", weights="compute", init_scale=256.0),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.LayerNorm(16),
        nn.Linear(16, 4),
    )  # fmt: skip


def made(policy, model=None, **settings):
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, optimizer, MixedPrecision(policy, model, optimizer, **settings)


def batch(seed=1):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 8, 8, generator=source), torch.randint(4, (8,), generator=source)


def train(model, precision, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        images, labels = batch(step % 3)
        with precision.autocast():
            loss = functional.cross_entropy(model(images), labels)
        precision.zero_grad()
        precision.backward(loss)
        precision.step()
        losses.append(loss.item())
    return losses


def test_fp32_is_stock_training_bit_for_bit():
    model, _, precision = made(POLICIES["fp32"])
    stock = net()
    optimizer = torch.optim.SGD(stock.parameters(), lr=0.05, momentum=0.9)
    expected = []
    for step in range(4):
        images, labels = batch(step % 3)
        loss = functional.cross_entropy(stock(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert train(model, precision, 4) == expected
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), stock.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_learns_as_fp32_does(name):
    model, _, precision = made(POLICIES[name])
    losses = train(model, precision, 30)
    reference, _, plain = made(POLICIES["fp32"])
    assert losses[-1] < 0.3 * losses[0]
    assert losses[:5] == pytest.approx(train(reference, plain, 30)[:5], rel=0.05)
    assert precision.skipped == 0


@pytest.mark.parametrize("name", ["bf16 weights", "fp16 weights"])
def test_weights_are_halved_and_norms_and_statistics_are_not(name):
    model, optimizer, precision = made(POLICIES[name])
    train(model, precision, 1)
    half = POLICIES[name].dtype
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    assert {key for key, kind in kinds.items() if kind is half} == {
        "0.weight", "0.bias", "4.weight", "4.bias", "6.weight", "6.bias"
    }  # fmt: skip
    assert kinds["1.running_mean"] is kinds["1.weight"] is kinds["5.bias"] is torch.float32
    assert all(p.dtype is torch.float32 for group in optimizer.param_groups for p in group["params"])
    assert all(s["momentum_buffer"].dtype is torch.float32 for s in optimizer.state.values())


def test_masters_keep_updates_that_sixteen_bits_would_lose():
    def moved(policy):
        model = nn.Linear(4, 1, bias=False)
        nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        precision = MixedPrecision(policy, model, optimizer)
        for _ in range(100):  # each step is a tenth of bf16's spacing at 1
            precision.zero_grad()
            with precision.autocast():
                loss = model(torch.ones(1, 4)).sum()
            precision.backward(loss)
            precision.step()
        return model, precision

    model, precision = moved(POLICIES["bf16 weights"])
    torch.testing.assert_close(precision.weights()["weight"], torch.full((1, 4), 0.99), rtol=1e-4, atol=0)
    assert torch.equal(model.weight.detach(), torch.full((1, 4), 0.99).bfloat16())
    bare = nn.Linear(4, 1, bias=False).bfloat16()
    nn.init.ones_(bare.weight)
    optimizer = torch.optim.SGD(bare.parameters(), lr=1e-4)
    for _ in range(100):
        optimizer.zero_grad()
        bare(torch.ones(1, 4).bfloat16()).sum().backward()
        optimizer.step()
    assert torch.equal(bare.weight.detach(), torch.ones(1, 4).bfloat16()), "without masters nothing moves"


@pytest.mark.parametrize("name", POLICIES)
def test_a_checkpoint_goes_on_bit_for_bit(name):
    model, _, precision = made(POLICIES[name])
    expected = train(model, precision, 6)
    model, optimizer, precision = made(POLICIES[name])
    first = train(model, precision, 3)
    state = copy.deepcopy((precision.weights(), optimizer.state_dict(), precision.state_dict()))
    assert all(v.dtype is torch.float32 for v in state[0].values() if v.is_floating_point())
    net().load_state_dict(state[0])  # what is saved fits the plain model
    model, optimizer, precision = made(POLICIES[name])
    precision.load_weights(state[0])
    optimizer.load_state_dict(state[1])
    precision.load_state_dict(state[2])
    assert first + train(model, precision, 3, first=3) == expected


def test_a_checkpoint_of_another_policy_is_refused():
    *_, precision = made(POLICIES["bf16"])
    *_, other = made(POLICIES["fp32"])
    with pytest.raises(CheckpointError, match=r"trained with .*bf16"):
        other.load_state_dict(precision.state_dict())


@pytest.mark.parametrize("name", ["fp16", "fp16 weights"])
def test_an_overflow_costs_the_step_and_halves_the_scale(name):
    model, _, precision = made(POLICIES[name])
    train(model, precision, 1)
    before = copy.deepcopy((model.state_dict(), precision.weights()))
    images, labels = batch()
    with precision.autocast():
        loss = functional.cross_entropy(model(images), labels)
    precision.zero_grad()
    precision.backward(loss * 1e38)
    assert not precision.step()
    after = (model.state_dict(), precision.weights())
    names = [key for key in before[0] if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(a[key], b[key]) for a, b in zip(before, after, strict=True) for key in names)
    assert precision.skipped == 1
    assert precision.state_dict()["scaler"]["scale"] == 128.0
    assert train(model, precision, 1)[0] > 0 and precision.skipped == 1


def test_every_built_in_network_trains_with_sixteen_bit_weights():
    for name in models.names():
        size = 64 if name.startswith("alexnet") else 32
        if name.startswith("vgg") or name == "alexnet":
            continue  # made of the same layers as others here, and slow
        torch.manual_seed(0)
        model, _, precision = made(POLICIES["bf16 weights"], models.build(name, num_classes=4, image_size=size))
        images = torch.randn(4, 3, size, size)
        with precision.autocast():
            loss = functional.cross_entropy(model(images), torch.arange(4))
        precision.zero_grad()
        precision.backward(loss)
        assert precision.step(), name
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), name


def test_a_cpu_without_bfloat16_is_told(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t: more\n")
    assert cpu_flags(info) == {"fpu", "avx2", "avx512f"}
    assert cpu_flags(tmp_path / "absent") == frozenset()
    for flags, told in ((cpu_flags(info), True), ({"avx512_bf16"}, False), ({"bf16", "asimd"}, False)):
        monkeypatch.setattr("thrifty.distributed.precision.cpu_flags", lambda flags=flags: frozenset(flags))
        assert ("no bfloat16 products" in Precision("bf16").drawback()) is told
        assert Precision().drawback() == ""
    monkeypatch.setattr("thrifty.distributed.precision.cpu_flags", lambda: frozenset())
    with pytest.warns(PrecisionWarning, match="bf16 saves memory here, but no time"):
        made(Precision("bf16"))
    assert "take bf16, or a GPU" in Precision("fp16").drawback()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"compute": "fp8"}, "Precision.compute is 'fp8': choose one of fp32, bf16, fp16"),
        ({"weights": "bf16"}, "choose fp32 or compute"),
        ({"init_scale": 0.0}, "must be at least 1"),
        ({"growth_interval": 0}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(wrong, message):
    with pytest.raises(UsageError, match=message):
        Precision(**wrong)


def test_a_model_that_was_halved_by_hand_is_refused():
    with pytest.raises(ModelError, match=r"weights in torch\.bfloat16: build it in float32"):
        made(POLICIES["bf16"], net().bfloat16())
