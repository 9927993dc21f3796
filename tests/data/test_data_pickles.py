import os
import pickle
import pickletools

import numpy as np
import pytest

from thrifty.core.errors import DataError
from thrifty.data.pickles import read_pickle

PIXELS = bytes(range(12))
# A batch as Python 2 with numpy 1 wrote it: byte strings, and numpy's names of then.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
    b"U\x01b\x87Rq\x05(K\x01K\x02K\x06\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x0c" + PIXELS + b"tbU\x06labelsq\x08]q\x09(K\x07K\x01eu."
)


def test_a_python_2_batch_is_read():
    batch = read_pickle(PYTHON_2, "batch")
    np.testing.assert_array_equal(batch["data"], np.frombuffer(PIXELS, np.uint8).reshape(2, 6))
    assert batch["labels"] == [7, 1]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("array", [np.arange(6, dtype="<i8").reshape(2, 3), np.arange(6, dtype=">f4"), np.eye(3).T])
def test_arrays_of_every_protocol_come_back(protocol, array):
    batch = read_pickle(pickle.dumps({"a": np.asfortranarray(array), "b": b"x"}, protocol=protocol), "batch")
    np.testing.assert_array_equal(batch["a"], array)


class _Runs:
    def __init__(self, action, *arguments):
        self.call = action, arguments

    def __reduce__(self):
        return self.call


def test_nothing_that_a_pickle_names_is_run(tmp_path):
    mark = tmp_path / "ran"
    for harmful in (_Runs(os.mkdir, str(mark)), _Runs(eval, "1"), _Runs(getattr, [], "append")):
        for protocol in range(6):
            with pytest.raises(DataError, match=r"batch: .*it names .*which no data batch needs"):
                read_pickle(pickle.dumps({"data": harmful}, protocol=protocol), "batch")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "near byte 0"),
        (b"not a pickle", "near byte"),
        (PYTHON_2[:-1], "near byte"),
        (pickle.dumps([1, 2]), "it holds a list, not a dict"),
        (pickle.dumps({"a": np.array([object(), None])}, protocol=2), "near byte"),
        (b"\x80\x02}(U\x04datacnumpy\nndarray\n}U\x05shapeK\x01sbu.", "no array"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "near byte"),
        (b"\x80\x02(inumpy\nndarray\n.", "near byte"),
        (b"\x80\x02}r\xff\xff\xff\xff" + b"U\x01aK\x01s.", None),
        (PYTHON_2.replace(b"U\x02u1", b"U\x02O8"), "array of type 'O8'"),
        (PYTHON_2.replace(b"K\x02K\x06\x86", b"K\x02K\x07\x86"), r"an array of shape \(2, 7\) with 12 bytes"),
        (PYTHON_2.replace(b"\x89U\x0c", b"\x89X\x0c\0\0\0"), "an array without bytes of numbers"),
    ],
)
def test_damage_is_named_with_a_byte(content, message):
    if message is None:
        assert read_pickle(content, "batch") == {"a": 1}
        return
    with pytest.raises(DataError, match=f"^batch: .*{message}"):
        read_pickle(content, "batch")


def test_the_example_is_a_whole_pickle():
    assert [code.name for code, _, _ in pickletools.genops(PYTHON_2)][-1] == "STOP"
