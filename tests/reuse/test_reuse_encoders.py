"""The two encoders: codes by signs come from the seed alone, a codebook follows the activations step by step."""

import copy

import pytest
import torch
from reuse_layers import ENCODERS, changed, clusters_of, expected, fixed
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty.core.errors import CheckpointError
from thrifty.reuse import Reuse, Stage


def images(seed, kinds=40, count=4, channels=8, size=8, noise=0.1):
    """Pixels near a few prototypes, as activations are."""
    prototypes = torch.randn(kinds, channels, generator=torch.Generator().manual_seed(5))
    source = torch.Generator().manual_seed(seed)
    chosen = prototypes[torch.randint(kinds, (count * size * size,), generator=source)]
    rows = chosen + noise * torch.randn(chosen.shape, generator=source)
    return rows.view(count, size, size, channels).permute(0, 3, 1, 2).contiguous()


def layer_of(encoder, bits=5, length=8, **settings):
    torch.manual_seed(0)
    return changed(nn.Conv2d(8, 6, 3, padding=1), length=length, bits=bits, encoder=encoder, **settings)


def error_of(layer, x):
    layer.counters.reset()
    layer(x)
    return layer.counters.error


def test_a_codebook_errs_less_than_signs_at_no_more_clusters():
    x = images(0)
    signs, codebook = layer_of("sign"), layer_of("codebook")
    assert error_of(codebook, x) < 0.6 * error_of(signs, x)
    assert codebook.counters.remaining_ratio <= 2**5 / x[:, 0].numel()


def test_a_codebook_follows_the_activations():
    layer = layer_of("codebook")
    error_of(layer, images(0) - 3.0)
    before = error_of(layer, images(1))  # far from what it has seen
    for seed in range(2, 12):
        layer(images(seed))
        layer.reuse.learn()
    assert error_of(layer, images(1)) < 0.5 * before


@pytest.mark.parametrize("encoder", ENCODERS)
def test_within_a_step_the_same_pieces_get_the_same_clusters(encoder):
    layer, x = layer_of(encoder), images(0)
    first = layer(x)
    layer(images(1))  # another micro-batch of the step
    assert torch.equal(layer(x), first)


def test_the_controller_lets_codebooks_learn_once_a_step():
    model = nn.Sequential(nn.Conv2d(8, 6, 3))
    applied = thrifty.apply_(model, [fixed(encoder="codebook")])
    x = images(0)
    first = model(x)
    assert torch.equal(model(x), first)
    applied.step(1.0)
    assert not torch.equal(model(x), first)


def test_evaluation_and_dense_steps_teach_nothing():
    layer, x = layer_of("codebook"), images(0)
    first = layer(x)
    layer.reuse.learn()
    second = layer(x)
    layer.reuse.learn()
    third = layer(x)
    fresh = layer_of("codebook")
    assert torch.equal(fresh(x), first)
    fresh.reuse.learn()
    fresh.eval()(images(7))
    fresh.reuse.learn()
    with pytest.warns(RuntimeWarning):
        fresh.train()(x * float("nan"))
    fresh.reuse.learn()
    assert torch.equal(fresh(x), second)
    fresh.reuse.learn()
    assert torch.equal(fresh(x), third)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_same_seed_gives_the_same_training(encoder):
    def run(seed):
        layer = layer_of(encoder, seed=seed)
        answers = []
        for step in range(4):
            answers.append(layer(images(step)).detach())
            layer.reuse.learn()
        return torch.stack(answers)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


@pytest.mark.parametrize("threads", [2, 3])
def test_learning_does_not_depend_on_threads(threads):
    def run():
        layer = layer_of("codebook")
        for step in range(3):
            layer(images(step))
            layer.reuse.learn()
        return layer(images(9))

    before, alone = torch.get_num_threads(), run()
    try:
        torch.set_num_threads(threads)
        assert_close(run(), alone, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_answers_stay_those_of_the_oracle_while_it_learns():
    layer = layer_of("codebook", length=3)
    for step in range(5):
        x = images(step)
        y = layer(x)
        assert_close(y, expected(layer, x), rtol=1e-4, atol=1e-4)
        layer.reuse.learn()


def test_scopes_keep_images_apart_with_a_codebook():
    layer = changed(nn.Conv2d(4, 3, 1), bits=1, scope=1, encoder="codebook")
    x = torch.randn(3, 4, 5, 5)
    layer(x)
    ids, _ = clusters_of(layer, x.permute(0, 2, 3, 1).reshape(-1, 4), 25)
    found = [set(part.tolist()) for part in ids[0].split(25)]
    assert not found[0] & found[1] and not found[1] & found[2]


def test_a_first_batch_that_is_small_does_not_bind_the_later_ones():
    layer = layer_of("codebook")
    layer(images(0)[:1, :, :1, :1])
    layer.reuse.learn()
    for step in range(6):
        layer(images(step))
        layer.reuse.learn()
    fresh = layer_of("codebook")
    fresh(images(0))
    assert error_of(layer, images(7)) < 2 * error_of(fresh, images(7))


def test_a_codebook_of_constant_activations_learns_others_later():
    layer = layer_of("codebook")
    layer(torch.zeros(4, 8, 8, 8))
    for step in range(12):
        layer(images(step))
        layer.reuse.learn()
    assert error_of(layer, images(20)) < 0.5


def test_changing_the_stage_makes_another_codebook_and_keeps_the_first():
    model = nn.Sequential(nn.Conv2d(8, 6, 3))
    config = Reuse(stages=(Stage(8, 4), Stage(4, 5)), pieces="pixels", patience=10**6, measure=False)
    thrifty.apply_(model, [config])
    x = images(0)
    coarse = model(x)
    model[0].reuse.stage_index = 1
    assert not torch.equal(model(x), coarse)
    model[0].reuse.stage_index = 0
    assert torch.equal(model(x), coarse)


def trained(encoder="codebook", steps=2):
    model = nn.Sequential(nn.Conv2d(8, 6, 3))
    applied = thrifty.apply_(model, [fixed(encoder=encoder)])
    for step in range(steps):
        model(images(step))
        applied.step(1.0)
    return model, applied


def damaged(state, key, value):
    """The state of a layer with pieces of 4 channels and 3 bits, with one thing wrong."""
    state = copy.deepcopy(state)
    encoders = state["controllers"]["reuse"]["encoders"]
    (name,) = encoders["0"]
    if key == "name":
        encoders["0"][value] = encoders["0"].pop(name)
    elif key == "layer":
        encoders[value] = encoders.pop("0")
    else:
        encoders["0"][name][key] = value
    return state


@pytest.mark.parametrize(
    "key, value",
    [
        ("codebook", "no tensor"), ("codebook", torch.zeros(2, 8, 5)), ("codebook", torch.zeros(3)),
        ("codebook", torch.zeros(2, 0, 4)), ("codebook", torch.zeros(2, 9, 4)),
        ("codebook", torch.zeros(2, 8, 4, dtype=torch.int64)), ("codebook", torch.full((2, 8, 4), float("nan"))),
        ("learned", None), ("learned", -1), ("name", "4"), ("name", "a,b"), ("name", "4,3,2"), ("layer", "1"),
    ],
)  # fmt: skip
def test_a_damaged_codebook_is_refused_and_nothing_changes(key, value):
    model, applied = trained()
    before = model(images(9))
    with pytest.raises(CheckpointError):
        applied.load_state_dict(damaged(applied.state_dict(), key, value))
    assert torch.equal(model(images(9)), before)


def test_codebooks_do_not_load_into_signs():
    state = trained()[1].state_dict()["controllers"]["reuse"]
    with pytest.raises(CheckpointError, match="codebooks"):
        trained("sign")[1]._controllers["reuse"].load_state_dict(state)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_state_makes_another_model_go_on_alike(encoder):
    (model, applied), (other, resumed) = trained(encoder, steps=3), trained(encoder, steps=1)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(applied.state_dict())
    for step in range(3, 6):
        assert torch.equal(other(images(step)), model(images(step)))
        applied.step(1.0)
        resumed.step(1.0)


def test_before_the_first_ordinary_step_a_transform_sees_signs():
    layer, x = layer_of("codebook"), images(0)
    under = torch.func.vjp(layer, x)[0]
    assert torch.equal(under, layer_of("sign")(x))
    layer(x)
    assert torch.equal(torch.func.vjp(layer, x)[0], layer(x))
