"""Next-item sequences and extreme-classification text: what comes out, and what is refused."""

import gzip

import numpy as np
import pytest
import torch

from thrifty.core.errors import DataError
from thrifty.data import load_next_items, read_xc


def write_items(path, items, offsets):
    np.savez(path, items=np.array(items), offsets=np.array(offsets))
    return path


def test_leave_one_out(tmp_path):
    path = write_items(tmp_path / "x.npz", [5, 6, 7, 8, 9, 1, 2, 3, 4, 9], [0, 5, 8, 10])  # the last user is too short
    data = load_next_items(path)
    assert data.count == 10 and data.offsets.tolist() == [0, 5, 8]
    x, y = data.training(3)
    assert x.tolist() == [[5, 0, 0], [6, 5, 0]] and y.tolist() == [6, 7]
    x, y = data.held_out("valid", 2)
    assert x.tolist() == [[7, 6], [1, 0]] and y.tolist() == [8, 2]
    x, y = data.held_out("test", 2)
    assert x.tolist() == [[8, 7], [2, 1]] and y.tolist() == [9, 3]


@pytest.mark.parametrize(
    "items, offsets, message",
    [
        ([1, 2, 3], [0, 2], "offsets must rise from 0 to the 3 items"),
        ([1, 2, 3], [0, 4, 3], "offsets must rise"),
        ([0, 2, 3], [0, 3], "an item is 0"),
        ([1, 2], [0, 2], "no user has 3 items"),
        ([1.5, 2, 3], [0, 3], "whole numbers"),
    ],
)
def test_sequences_that_are_none(tmp_path, items, offsets, message):
    with pytest.raises(DataError, match=message):
        load_next_items(write_items(tmp_path / "x.npz", items, offsets))


def test_a_damaged_npz(tmp_path):
    path = write_items(tmp_path / "x.npz", [1, 2, 3], [0, 3])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"x\.npz"):
        load_next_items(path)
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="expected an npz with items and offsets"):
        load_next_items(tmp_path / "y.npz")


XC = "3 4 5\n0,3 1:0.5 2:2\n 0:1\n4\n"


@pytest.mark.parametrize("zipped", [False, True])
def test_rows_of_xc_text(tmp_path, zipped):
    path = tmp_path / "x.txt"
    path.write_bytes(gzip.compress(XC.encode()) if zipped else XC.encode())
    rows = read_xc(path)
    assert len(rows) == 3 and (rows.features, rows.classes) == (4, 5)
    assert (
        rows.indices.tolist() == [1, 2, 0]
        and rows.values.tolist() == [0.5, 2, 1]
        and rows.offsets.tolist() == [0, 2, 3, 3]
    )
    assert rows.labels.tolist() == [0, 3, 4] and rows.label_offsets.tolist() == [0, 2, 2, 3]
    turned = rows.pick(torch.tensor([2, 0]))
    assert turned.indices.tolist() == [1, 2] and turned.labels.tolist() == [4, 0, 3]
    assert turned.label_offsets.tolist() == [0, 1, 3]
    lengths = rows.normalised().values[:2].norm()
    assert abs(float(lengths) - 1) < 1e-6


def test_libsvm_has_no_header(tmp_path):
    (tmp_path / "x.svm").write_text("1 0:2\n0,1 3:1\n\n")
    rows = read_xc(tmp_path / "x.svm", features=4, classes=2)
    assert len(rows) == 2 and rows.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: expected the header"),
        ("3 4\n", "line 1: expected the header"),
        ("1 -4 5\n", "line 1"),
        ("1 4 5\n0 1\n", "line 2: expected"),
        ("1 4 5\na 1:2\n", "line 2: expected"),
        ("1 4 5\n0 4:1\n", "a feature out of range: expected 0 to 3"),
        ("1 4 5\n5 3:1\n", "a label out of range: expected 0 to 4"),
        ("1 4 5\n0 1:nan\n", "NaN or infinite"),
        ("2 4 5\n0 1:1\n", "promises 2 rows, it holds 1"),
    ],
)
def test_text_that_is_none(tmp_path, text, message):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_xc(tmp_path / "x.txt")


def test_a_cut_off_gzip_and_a_missing_file(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(XC.encode() * 50)[:-9])
    with pytest.raises(
        DataError, match=r"x\.txt\.gz(: cannot be read|, line \d+: expected)"
    ):  # cut in a line or between two
        read_xc(tmp_path / "x.txt.gz")
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        read_xc(tmp_path / "absent.txt")


def test_real_sets_are_what_is_known_of_them(shared_data):
    data = load_next_items("sports-18k", root=shared_data)
    assert data.count == 18_358 and len(data.offsets) == 35_599
    rows = read_xc(shared_data / "xmc-small" / "delicious_test.txt.gz")
    assert len(rows) == 3185 and (rows.features, rows.classes) == (500, 983)
    assert int((rows.label_offsets.diff() == 0).sum()) == 4
