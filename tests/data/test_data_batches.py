import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.errors import UsageError
from thrifty.data import Augment, ImageBatches, ImageSplit
from thrifty.data.augment import draw_moves, move


def _split(count=23, height=6, width=5, channels=3):
    noise = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=noise)
    return ImageSplit(images, torch.arange(count))


def _batches(split, batch_size=4, **changes):
    channels = split.images.shape[3]
    settings = {"augment": Augment(crop_padding=1), "shuffle": True, "seed": 3} | changes
    return ImageBatches(split, batch_size, mean=[0.4] * channels, std=[0.25] * channels, **settings)


@given(
    count=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    seed=st.integers(-(2**63), 2**64),
    epoch=st.integers(0, 2**40),
    start=st.integers(0, 40),
    drop_last=st.booleans(),
    augment=st.none() | st.builds(Augment, flip=st.booleans(), crop_padding=st.integers(0, 3)),
)
def test_a_batch_depends_on_seed_epoch_and_step_only(count, batch_size, seed, epoch, start, drop_last, augment):
    split = _split(count)
    if drop_last and count < batch_size:
        batch_size = count
    settings = {"batch_size": batch_size, "seed": seed, "epoch": epoch, "drop_last": drop_last, "augment": augment}
    whole = list(_batches(split, **settings))
    start = min(start, len(whole))
    rest = _batches(split, start_step=start, **settings)
    assert len(rest) == len(whole)
    pairs = list(zip(rest, whole[start:], strict=True))
    assert all(torch.equal(x, expected_x) and torch.equal(y, expected_y) for (x, y), (expected_x, expected_y) in pairs)


def test_seeds_and_epochs_give_other_orders_and_every_image_comes_once():
    split = _split(23)
    orders = [
        torch.cat([y for _, y in _batches(split, seed=seed, epoch=epoch)]).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_the_stream_is_the_same_for_ever():
    """A change of these numbers would break the resuming of every older run."""
    assert torch.cat([y for _, y in _batches(_split(8), seed=1, epoch=2)]).tolist() == FROZEN_ORDER
    rows, columns, mirrored = draw_moves(Augment(crop_padding=2), 6, seed=1, epoch=2, step=3)
    assert [rows.tolist(), columns.tolist(), mirrored.astype(int).tolist()] == FROZEN_MOVES


FROZEN_ORDER = [1, 5, 6, 7, 4, 3, 0, 2]
FROZEN_MOVES = [[3, 2, 2, 0, 2, 4], [1, 1, 0, 0, 4, 2], [0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("channels", [1, 3])
def test_unmoved_batches_are_the_normalised_pixels_in_channels_last(channels):
    split = _split(10, channels=channels)
    batches = _batches(split, shuffle=False, augment=None)
    x, y = map(torch.cat, zip(*batches, strict=True))
    assert y.tolist() == list(range(10)) and len(batches) == 3
    expected = (split.images.permute(0, 3, 1, 2).double() / 255 - 0.4) / 0.25
    torch.testing.assert_close(x, expected.float())
    first, _ = next(iter(batches))
    assert first.dtype == torch.float32 and first.shape == (4, channels, 6, 5)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_each_channel_has_its_own_mean_and_std():
    split = ImageSplit(torch.full((2, 3, 3, 3), 51, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    batches = ImageBatches(
        split,
        2,
        mean=torch.tensor([0.2, 0.1, 0.0]),
        std=torch.tensor([1.0, 0.1, 0.2]),
        augment=None,
        shuffle=False,
        seed=0,
    )
    x, _ = next(iter(batches))
    torch.testing.assert_close(x[0, :, 1, 2], torch.tensor([0.0, 1.0, 1.0]))


@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 999))
def test_moving_is_padding_cropping_and_mirroring_one_by_one(padding, flip, seed):
    images = _split(9).images
    rows, columns, mirrored = draw_moves(Augment(flip, padding), 9, seed=seed, epoch=0, step=0)
    moved = torch.from_numpy(move(images.numpy(), padding, rows, columns, mirrored))
    for index in range(9):
        padded = torch.nn.functional.pad(images[index], (0, 0, padding, padding, padding, padding))
        top, left = int(rows[index]), int(columns[index])
        crop = padded[top : top + 6, left : left + 5]
        assert torch.equal(moved[index], crop.flip(1) if mirrored[index] else crop)


def test_draws_are_even():
    rows, columns, mirrored = draw_moves(Augment(crop_padding=2), 20_000, seed=0, epoch=0, step=0)
    for places in (rows, columns):
        shares = np.bincount(places) / len(places)
        assert len(shares) == 5 and np.abs(shares - 0.2).max() < 0.02
    assert abs(mirrored.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.03
    assert not draw_moves(Augment(flip=False), 50, seed=0, epoch=0, step=0)[2].any()


def test_the_last_batch_is_short_or_left_out():
    split = _split(10)
    assert [len(y) for _, y in _batches(split)] == [4, 4, 2]
    assert [len(y) for _, y in _batches(split, drop_last=True)] == [4, 4]
    assert len(_batches(split, drop_last=True)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: give 1 or more"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"epoch": -1}, "epoch is -1"),
        ({"start_step": -1}, "start_step is -1: the epoch has steps 0 to 6"),
        ({"start_step": 7}, "start_step is 7"),
        ({"batch_size": 24, "drop_last": True}, "23 images give no batch of 24"),
    ],
)
def test_what_cannot_be_meant_is_said(changes, message):
    with pytest.raises(UsageError, match=message):
        _batches(_split(), **changes)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.5], r"mean has \(1,\) and std \(1,\) values, the images 3 channels"),
        ([0.5] * 3, [0.5, 0.0, 0.5], "std above 0"),
        ([0.5, float("nan"), 0.5], [0.5] * 3, "must be finite"),
    ],
)
def test_mean_and_std_must_fit(mean, std, message):
    with pytest.raises(UsageError, match=message):
        ImageBatches(_split(), 4, mean=mean, std=std, augment=None, shuffle=False, seed=0)


def test_negative_padding_is_refused():
    with pytest.raises(UsageError, match="crop_padding is -1"):
        Augment(crop_padding=-1)
