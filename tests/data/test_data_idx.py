import gzip

import numpy as np
import pytest
from data_files import write_idx_set

from thrifty.core.errors import DataError
from thrifty.data import load_images, read_idx, write_idx


@pytest.mark.parametrize("name", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("zipped", [True, False])
def test_arrays_come_back_as_they_were_written(tmp_path, name, zipped):
    array = np.random.default_rng(1).normal(0, 50, (3, 4, 5)).astype(name)
    path = tmp_path / "array"
    write_idx(path, array)
    if not zipped:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    read = read_idx(path)
    assert read.dtype == array.dtype and read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_idx(tmp_path / name, np.arange(10, dtype=np.uint8))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_idx_cannot_hold_is_refused(tmp_path):
    for array in (np.zeros(3, np.complex64), np.uint8(3), np.zeros((1,) * 9, np.uint8)):
        with pytest.raises(DataError, match="cannot hold"):
            write_idx(tmp_path / "a", array)


GOOD = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"truncated: ends at byte 0 of 4"),
        (GOOD[:3], r"truncated: ends at byte 3 of 4"),
        (GOOD[:9], r"truncated: ends at byte 9 of 12"),
        (GOOD[:-2], r"header at byte 4 gives shape \(2, 3\)|truncated: ends at byte 16 of 18"),
        (GOOD + b"\0", r"goes on at byte 18"),
        (b"\x01" + GOOD[1:], r"not an IDX file: its first bytes at byte 0 are 01 00 08 02"),
        (GOOD[:2] + b"\x0a" + GOOD[3:], r"not an IDX file"),
        (GOOD[:3] + b"\0" + GOOD[4:], r"byte 3 says 0 dimensions"),
        (GOOD[:3] + b"\xff" + GOOD[4:], r"byte 3 says 255 dimensions"),
        (GOOD[:4] + b"\0\0\0\0" + GOOD[8:], r"holds nothing"),
        (GOOD[:4] + b"\xff" * 8 + GOOD[12:], r"more than the file can hold"),
        (gzip.compress(GOOD, mtime=0)[:-6], r"damaged gzip near byte 18 .*byte \d+ of the compressed file"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, r"damaged gzip"),
        (gzip.compress(GOOD, mtime=0)[:2] + b"\0" * 20, r"damaged gzip near byte 0"),
        (gzip.compress(GOOD, mtime=0) + b"rest", r"damaged gzip"),
        (gzip.compress(GOOD[:4] + b"\x00\xff\xff\xff" * 2, mtime=0), r"more than the file can hold"),
    ],
)
def test_damage_is_named_with_file_and_byte(tmp_path, content, message):
    path = tmp_path / "digits-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"digits-idx: .*(?:{message})"):
        read_idx(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=path.name):
            read_idx(path)


def test_a_folder_of_idx_files_is_a_data_set(tmp_path):
    data = load_images(write_idx_set(tmp_path / "mine"))
    assert data.name == "mine" and data.source == "mine (IDX)"
    assert data.train.images.shape == (12, 6, 5, 1) and data.test.images.shape == (6, 6, 5, 1)
    assert data.classes == ("0", "1", "2")
    assert data.train.labels.tolist() == [0, 1, 2] * 4


def test_an_unpacked_copy_beside_its_archive_is_no_conflict(tmp_path):
    folder = write_idx_set(tmp_path / "mine")
    packed = folder / "train-labels-idx1-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    assert len(load_images(folder).train) == 12
    write_idx(folder / "emnist-train-labels-idx1-ubyte.gz", np.zeros(12, np.uint8))
    with pytest.raises(DataError, match="are both train labels"):
        load_images(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8), "11 labels for the 12 images of train-images"),
        ("train-labels-idx1-ubyte.gz", np.zeros(12, np.int32), r"holds int32 \(12,\): expected uint8"),
        ("train-images-idx3-ubyte.gz", np.zeros((12, 6, 5), np.float32), "holds float32"),
        ("train-images-idx3-ubyte.gz", np.zeros((12, 30), np.uint8), r"expected uint8 \(N, H, W\)"),
        ("train-images-idx3-ubyte.gz", np.zeros((12, 6, 5, 4), np.uint8), "have 4 channels"),
        ("train-images-idx3-ubyte.gz", np.zeros((12, 6, 6), np.uint8), "pass image_size"),
        ("t10k-labels-idx1-ubyte.gz", np.array([0, 1, 2, 0, 7, 2], np.uint8), r"label 7 of image 4 \(byte 12\)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_named(tmp_path, name, array, message):
    folder = write_idx_set(tmp_path / "mine")
    write_idx(folder / name, array)
    with pytest.raises(DataError, match=message):
        load_images(folder)


def test_a_missing_part_is_named(tmp_path):
    folder = write_idx_set(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"no test labels: expected t10k-labels-idx1-ubyte.gz"):
        load_images(folder)


def test_colour_images_and_a_new_size(tmp_path):
    folder = write_idx_set(tmp_path / "mine")
    for name, count in (("train", 12), ("t10k", 6)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", np.full((count, 6, 6, 3), 77, np.uint8))
    data = load_images(folder, image_size=(4, 3))
    assert data.train.images.shape == (12, 4, 3, 3) and (data.test.images == 77).all()
