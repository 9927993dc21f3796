"""The built-in networks: published sizes, every input size they claim, and that they learn."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from thrifty import models
from thrifty.core.errors import ModelError, UsageError

PUBLISHED = {
    "vgg19": 143_667_240,
    "vgg19-bn": 143_678_248,
    "resnet50": 25_557_032,
    "alexnet": 62_378_344,
}
SMALLEST = {
    "cifarnet": 4,
    "cifarnet-bn": 4,
    "alexnet": 63,
    "alexnet-bn": 63,
    "vgg19": 32,
    "vgg19-bn": 32,
    "resnet50": 8,
    "lstm": 1,
    "transformer": 1,
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_1000_classes_and_224_px_are_the_published_ones(name):
    with torch.device("meta"):
        model = models.build(name, num_classes=1000, image_size=224)
    assert count(model) == PUBLISHED[name]


def test_every_network_is_covered_here():
    assert set(SMALLEST) == set(models.names())


@pytest.mark.parametrize("name", SMALLEST)
def test_forward_and_backward_at_the_smallest_size(name):
    size = SMALLEST[name]
    model = models.build(name, num_classes=7, in_channels=2, image_size=size)
    assert all(module.training for module in model.modules())
    logits = model(torch.randn(2, 2, size, size).to(memory_format=torch.channels_last))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("size", [(64, 96), (130, 67), (224, 224), (300, 300)])
def test_shapes_at_large_and_odd_sizes(name, size):
    with torch.device("meta"):  # shapes without the work
        model = models.build(name, num_classes=7, image_size=size)
        assert model(torch.empty(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name, size in SMALLEST.items() if size > 1])
def test_smaller_images_are_refused_with_the_smallest_size(name):
    smallest = SMALLEST[name]
    with pytest.raises(ModelError, match=f"at least {smallest} x {smallest} px"):
        models.build(name, num_classes=10, image_size=(smallest, smallest - 1))


@pytest.mark.parametrize("name", SMALLEST)
def test_first_loss_is_near_that_of_guessing(name):
    size = max(32, SMALLEST[name])
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, image_size=size)
    images, labels = torch.randn(8, 3, size, size), torch.arange(8)
    with torch.no_grad():
        loss = functional.cross_entropy(model(images), labels)
    assert abs(loss.item() - 2.303) < 0.6


@pytest.mark.parametrize("name", ["cifarnet", "cifarnet-bn", "lstm", "transformer"])
def test_a_few_steps_on_one_batch_bring_the_loss_down(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=4, image_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_sequences_of_tokens(name):
    model = models.build(name, num_classes=3, vocabulary=50)
    assert model(torch.randint(0, 50, (4, 11))).shape == (4, 3)


def test_lstm_reads_the_rows_of_the_image_in_order():
    model = models.build("lstm", num_classes=3, in_channels=2, image_size=(5, 4))
    images = torch.randn(1, 2, 5, 4)
    rows = images.permute(0, 2, 3, 1).reshape(1, 5, 8)
    states, _ = model.lstm(rows)
    torch.testing.assert_close(model(images), model.classifier(states[:, -1]))


def test_same_seed_same_weights():
    def weights():
        torch.manual_seed(3)
        return models.build("cifarnet", num_classes=10).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown model 'vgg18' \(did you mean vgg19\?\).*cifarnet, cifarnet-bn"):
        models.build("vgg18", num_classes=10)


@pytest.mark.parametrize(
    "wrong", [{"num_classes": 0}, {"in_channels": 0}, {"image_size": 0}, {"image_size": (3, 4, 5)}]
)
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(UsageError, match="at least 1"):
        models.build("cifarnet", **{"num_classes": 10, **wrong})


def test_options_reach_the_network_and_unknown_ones_are_refused():
    model = models.build("cifarnet", num_classes=10, dropout=0.25)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    with pytest.raises(UsageError, match="cifarnet does not take these options"):
        models.build("cifarnet", num_classes=10, vocabulary=5)
