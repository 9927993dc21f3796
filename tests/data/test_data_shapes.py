"""RECTANGLES and CONVEX: images that are what their labels say, drawn as published."""

import pytest
import torch

from thrifty.core.errors import UsageError
from thrifty.data import make_convex, make_rectangles
from thrifty.data.shapes import LEAST_DIFFERENCE, SIZE, is_convex


def test_rectangles_are_borders_wider_or_taller_as_labelled():
    data = make_rectangles(400, 300)
    assert data.train.images.shape == (400, SIZE, SIZE, 1) and len(data.test) == 300
    assert data.classes == ("tall", "wide") and "RECTANGLES" in data.source
    for image, label in zip(data.train.images[..., 0], data.train.labels.tolist(), strict=True):
        on = image == 255
        assert set(image.unique().tolist()) <= {0, 255}
        rows, columns = on.any(1).nonzero().flatten(), on.any(0).nonzero().flatten()
        height, width = (int(at[-1] - at[0]) + 1 for at in (rows, columns))
        border = torch.ones(height, width, dtype=torch.bool)
        border[1 : height - 1, 1 : width - 1] = False
        inside = on[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(inside, border) and int(on.sum()) == int(border.sum())
        assert abs(height - width) >= LEAST_DIFFERENCE and label == (width > height)


def test_rectangles_lie_anywhere():
    on = make_rectangles(3000, 1).train.images[..., 0].float().mean(0)
    assert on.min() > 0 and (on - on.flip(0)).abs().max() < 30 and (on - on.T).abs().max() < 30


def convex_by_pairs(image):
    """Every two pixels of the set, and the one half-way between them."""
    pixels = {tuple(at) for at in image.nonzero().tolist()}
    return all(
        ((a + c) % 2 or (b + d) % 2) or ((a + c) // 2, (b + d) // 2) in pixels for a, b in pixels for c, d in pixels
    )


def test_the_test_of_convexity_is_the_one_over_all_pairs():
    source = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    discs = torch.stack([(y - 4) ** 2 + (x - 4) ** 2 < r for r in range(1, 20, 3)])
    noise = torch.rand(40, 9, 9, generator=source) < torch.linspace(0.02, 0.9, 40).view(-1, 1, 1)
    images = torch.cat([discs, noise, torch.zeros(1, 9, 9, dtype=torch.bool), torch.ones(1, 9, 9, dtype=torch.bool)])
    wanted = [convex_by_pairs(image) for image in images]
    assert is_convex(images).tolist() == wanted and 7 <= sum(wanted) < len(wanted)


def test_convex_images_are_what_their_labels_say():
    data = make_convex(120, 60)
    assert data.classes == ("not convex", "convex")
    for split in (data.train, data.test):
        on = split.images[..., 0] == 255
        assert is_convex(on).long().tolist() == split.labels.tolist()
        assert on[split.labels == 1].sum((1, 2)).min() >= 19 and on.sum((1, 2)).min() >= 10
        assert set(split.images.unique().tolist()) == {0, 255}
        assert 0.3 < split.labels.float().mean() < 0.7


@pytest.mark.parametrize("make", [make_rectangles, make_convex])
def test_a_seed_makes_the_same_images_again(make):
    one, same, other = make(30, 20), make(30, 20), make(30, 20, seed=1)
    assert torch.equal(one.train.images, same.train.images) and torch.equal(one.test.labels, same.test.labels)
    assert not torch.equal(one.train.images, other.train.images)
    assert not torch.equal(one.train.images[:20], one.test.images)
    with pytest.raises(UsageError, match="at least one image"):
        make(0, 5)
