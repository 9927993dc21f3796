import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.errors import DataError, UsageError
from thrifty.data import ImageData, ImageSplit
from thrifty.data.images import channel_statistics, make_image_data
from thrifty.data.subset import stratified


def _images(*shape):
    return torch.zeros(shape, dtype=torch.uint8)


def _labels(*values):
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 3, 1), _labels(0, 1), r"uint8 \(N, H, W, C\), not torch.float32"),
        (_images(2, 3, 3), _labels(0, 1), r"not torch.uint8 \(2, 3, 3\)"),
        (_images(2, 3, 3, 1), _labels(0, 1).int(), "labels must be int64"),
        (_images(2, 3, 3, 1), _labels(0), "2 images but 1 labels"),
        (_images(0, 3, 3, 1), torch.zeros(0, dtype=torch.int64), "empty"),
        (_images(2, 3, 3, 1), _labels(0, -1), "label -1 is negative"),
    ],
)
def test_a_split_must_be_what_it_says(images, labels, message):
    with pytest.raises(DataError, match=message):
        ImageSplit(images, labels)


def test_a_set_must_fit_together():
    good = ImageSplit(_images(2, 3, 3, 1), _labels(0, 1))
    wide = ImageSplit(_images(2, 3, 4, 1), _labels(0, 1))
    one, three = torch.ones(1), torch.ones(3)
    for test, classes, mean, message in (
        (wide, ("a", "b"), one, "training images are 3x3 with 1 channels and test images 3x4"),
        (good, ("a",), one, "a train label is 1, but there are 1 classes"),
        (good, ("a", "b"), three, r"mean has shape \(3,\), the images 1 channels"),
    ):
        with pytest.raises(DataError, match=message):
            ImageData("mine", good, test, classes, mean, one, "made")


def test_statistics_are_those_of_the_pixels_and_never_zero():
    images = torch.randint(0, 256, (300, 4, 5, 3), dtype=torch.uint8)
    images[..., 2] = 9
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(mean, pixels.mean((0, 1, 2)).float())
    torch.testing.assert_close(std[:2], pixels.std((0, 1, 2), correction=0)[:2].float())
    assert std[2] == 1


def test_padding_follows_the_size():
    split = ImageSplit(_images(2, 64, 64, 1), _labels(0, 1))
    data = make_image_data("mine", split, split, ["a", "b"], source="made")
    assert data.augment.crop_padding == 8 and data.image_size == (64, 64) and data.channels == 1


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    limit=st.integers(1, 70),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_subset_keeps_the_shares(labels, limit, seed):
    labels = np.array(labels)
    chosen = stratified(labels, limit, seed=seed)
    assert len(chosen) == min(limit, len(labels)) == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all()
    exact = np.bincount(labels, minlength=5) * len(chosen) / len(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=5) - exact) < 1).all()
    np.testing.assert_array_equal(chosen, stratified(labels, limit, seed=seed))


def test_subsets_differ_by_seed_and_none_keeps_all():
    labels = np.arange(100) % 4
    assert (stratified(labels, 20, seed=0) != stratified(labels, 20, seed=1)).any()
    assert len(stratified(labels, None, seed=0)) == 100
    with pytest.raises(UsageError, match="a limit of 0"):
        stratified(labels, 0, seed=0)
