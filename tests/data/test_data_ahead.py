"""Batches made ahead: the same items in the same order, errors where they belong, no thread left behind; and shares."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.core.errors import UsageError
from thrifty.data import ImageBatches
from thrifty.data.ahead import ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@given(count=st.integers(0, 7), depth=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_items_are_the_same_in_the_same_order(count, depth):
    with ahead(range(count), depth) as items:
        assert list(items) == list(range(count))
        assert next(items, None) is None
    assert not threads()


def test_the_next_item_is_made_while_the_last_one_is_used():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    with ahead(items()) as iterator:
        assert next(iterator) == 1
        assert made.wait(10), "nobody asked for the second item yet"


def test_no_more_than_its_depth_is_made_ahead():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    with ahead(items(), 2) as iterator:
        assert next(iterator) == 0
        time.sleep(0.05)
        assert len(made) <= 4  # one taken, two waiting, one in hand


def test_an_error_comes_where_its_item_would():
    def items():
        yield 1
        raise UsageError("no second one")

    with ahead(items()) as iterator:
        assert next(iterator) == 1
        with pytest.raises(UsageError, match="no second one"):
            next(iterator)


def test_leaving_early_ends_the_thread():
    with pytest.raises(ZeroDivisionError), ahead(iter(int, 1)) as iterator:
        assert next(iterator) == 0
        1 / 0  # noqa: B018
    assert not threads()


@pytest.mark.parametrize(("workers", "drop_last"), [(1, False), (2, False), (3, True), (3, False)])
def test_shares_make_the_whole_batch_and_have_nothing_twice(tiny_images, workers, drop_last):
    def batches(share):
        return ImageBatches(
            tiny_images.train, 10, mean=tiny_images.mean, std=tiny_images.std, augment=tiny_images.augment,
            shuffle=True, seed=3, epoch=1, start_step=2, drop_last=drop_last, share=share,
        )  # fmt: skip

    whole = list(batches((0, 1)))
    shares = [list(batches((worker, workers))) for worker in range(workers)]
    assert all(len(share) == len(whole) for share in shares)
    for step, (images, labels) in enumerate(whole):
        for worker, share in enumerate(shares):
            assert torch.equal(share[step][0], images[worker::workers])
            assert torch.equal(share[step][1], labels[worker::workers])


@pytest.mark.parametrize("share", [(1, 1), (-1, 2), (0, 0)])
def test_shares_that_cannot_be_meant(tiny_images, share):
    with pytest.raises(UsageError, match="share is"):
        ImageBatches(
            tiny_images.train, 10, mean=tiny_images.mean, std=tiny_images.std, augment=None, shuffle=False, seed=0,
            share=share,
        )  # fmt: skip
