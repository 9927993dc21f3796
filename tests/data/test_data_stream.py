"""XC text in batches: the rows of the whole, in bounded memory, and the errors of the whole with their lines."""

import gzip
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import thrifty.data.xc as xc
from thrifty.core.errors import DataError, UsageError
from thrifty.data import read_xc, stream_xc

FIELDS = ("indices", "values", "labels")


def text(rows: int) -> bytes:
    lines = "".join(f"{i % 5},5 {i % 7}:1.5 {7 + i % 3}:0.5\n" if i % 4 else " 3:2\n" for i in range(rows))
    return f"{rows} 10 6\n{lines}".encode()


@pytest.mark.parametrize("zipped", [False, True])
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(0, 40), batch=st.integers(1, 50))
def test_batches_joined_are_the_whole(tmp_path_factory, zipped, rows, batch):
    path = tmp_path_factory.mktemp("xc") / "x.txt"
    path.write_bytes(gzip.compress(text(rows)) if zipped else text(rows))
    whole, parts = read_xc(path), list(stream_xc(path, batch=batch))
    assert [len(part) for part in parts] == [min(batch, rows - at) for at in range(0, rows, batch)]
    assert all((part.features, part.classes) == (10, 6) for part in parts)
    for field in FIELDS if parts else ():
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))
    for field in ("offsets", "label_offsets") if parts else ():
        assert torch.equal(torch.cat([getattr(part, field).diff() for part in parts]), getattr(whole, field).diff())


def test_lines_without_a_header(tmp_path):
    (tmp_path / "x.svm").write_text("1 0:2\n\n0,1 3:1\n 1:4\n")
    parts = list(stream_xc(tmp_path / "x.svm", batch=2, features=4, classes=2))
    assert [part.labels.tolist() for part in parts] == [[1, 0, 1], []] and parts[1].indices.tolist() == [1]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_larger_than_what_is_held_of_it(tmp_path, zipped):
    """Memory at its highest is that of a batch, a fraction of the file's."""
    path, rows = tmp_path / "x.txt", 120_000
    path.write_bytes(gzip.compress(text(rows)) if zipped else text(rows))
    found = 0
    for part in stream_xc(path, batch=64):  # what is made once is made before it is counted
        found += len(part)
        if found == 128:
            tracemalloc.start()
    try:
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == rows and highest < len(text(rows)) / 4


@pytest.mark.parametrize(
    "row, message",
    [
        (b"0 1", "line 9: expected"),
        (b"0 10:1", "line 9: holds a feature out of range: expected 0 to 9"),
        (b"6 1:1", "line 9: holds a label out of range: expected 0 to 5"),
        (b"-1 1:1", "line 9: holds a label out of range"),
        (b"0 1:nan", "line 9: holds a value that is NaN or infinite"),
        (b"0 99999999999999999999:1", "line 9: expected"),
    ],
)
def test_damage_is_told_with_its_line_when_it_is_come_to(tmp_path, row, message):
    lines = text(20).split(b"\n")
    lines[8] = row
    (tmp_path / "x.txt").write_bytes(b"\n".join(lines))
    batches = stream_xc(tmp_path / "x.txt", batch=3)
    assert [len(next(batches)), len(next(batches))] == [3, 3]
    with pytest.raises(DataError, match=f"x.txt, {message}"):
        next(batches)
    with pytest.raises(DataError, match=f"x.txt, {message}"):
        read_xc(tmp_path / "x.txt")


def test_a_packed_file_that_is_cut_off_gives_its_whole_rows_first(tmp_path):
    """Rows before the end are those of the whole file, and the end is an error, not an end."""
    whole = tmp_path / "whole.txt.gz"
    whole.write_bytes(gzip.compress(text(30_000)))
    path = tmp_path / "x.txt.gz"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    expected, seen = stream_xc(whole, batch=100), 0
    with pytest.raises(DataError, match=r"x\.txt\.gz: cannot be read \(Compressed file ended"):
        for part in stream_xc(path, batch=100):
            assert torch.equal(part.indices, next(expected).indices)
            seen += len(part)
    assert 0 < seen < 30_000


def test_a_packed_file_with_a_turned_bit_is_an_error(tmp_path):
    content = bytearray(gzip.compress(text(3000)))
    for at in (len(content) // 2, len(content) - 6):  # in the packed bytes, in their checksum
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        (tmp_path / "x.txt.gz").write_bytes(damaged)
        for read in (lambda: list(stream_xc(tmp_path / "x.txt.gz", batch=64)), lambda: read_xc(tmp_path / "x.txt.gz")):
            with pytest.raises(DataError, match=r"x\.txt\.gz(: |, line \d+: )"):
                read()


@pytest.mark.parametrize(("rows", "told"), [(b"2", "promises 2 rows, it holds"), (b"7", "promises 7 rows, it holds 5")])
def test_more_rows_or_fewer_than_promised(tmp_path, rows, told):
    (tmp_path / "x.txt").write_bytes(text(5).replace(b"5 10 6", rows + b" 10 6", 1))
    with pytest.raises(DataError, match=told):
        list(stream_xc(tmp_path / "x.txt", batch=2))


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(xc, "_MAX_LINE_BYTES", 1000)
    (tmp_path / "x.txt").write_bytes(b"2 4 5\n0 1:1\n0 " + b"1:1 " * 1000)
    with pytest.raises(DataError, match="line 3: is longer than 1,000 bytes"):
        read_xc(tmp_path / "x.txt")


def test_a_batch_has_rows_and_the_error_comes_before_the_first(tmp_path):
    with pytest.raises(UsageError, match="at least one row, got 0"):
        stream_xc(tmp_path / "absent.txt", batch=0)
    with pytest.raises(DataError, match="cannot be read"):
        next(stream_xc(tmp_path / "absent.txt"))


def test_real_rows_in_batches(shared_data):
    path = shared_data / "xmc-small" / "delicious_test.txt.gz"
    assert sum(map(len, stream_xc(path, batch=1000))) == 3185
