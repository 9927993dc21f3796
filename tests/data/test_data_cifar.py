import pickle

import numpy as np
import pytest
from data_files import TRAIN_PER_FILE, cifar_entries, cifar_records, shorten_cifar, write_tar, write_tree

from thrifty.core.errors import DataError
from thrifty.data import load_images
from thrifty.data.cifar import FORMATS, cifar_format, read_binary


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    shorten_cifar(monkeypatch)


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_every_distribution_gives_the_same_images(tmp_path, hundred, binary, packed):
    entries = cifar_entries(hundred=hundred, binary=binary)
    if packed:
        path = write_tar(tmp_path / "cifar.tar.gz", {f"cifar-batches/{name}": data for name, data in entries.items()})
    else:
        path = write_tree(tmp_path / "cifar", entries)
    data = load_images(path)
    pixels, labels = cifar_records(TRAIN_PER_FILE, 100 if hundred else 10, seed=0)
    assert len(data.train) == TRAIN_PER_FILE * (1 if hundred else 5) and data.train.images.is_contiguous()
    np.testing.assert_array_equal(data.train.labels[:TRAIN_PER_FILE], labels)
    planes = data.train.images[:TRAIN_PER_FILE].permute(0, 3, 1, 2).reshape(TRAIN_PER_FILE, 3072)
    np.testing.assert_array_equal(planes, pixels)
    assert data.classes[7] == "class7" and f"CIFAR-{100 if hundred else 10} (" in data.source


def test_a_named_set_is_found_in_its_usual_places(tmp_path):
    for place in ("cifar-10-batches-py", "cifar10/cifar-10-batches-py"):
        root = tmp_path / place.replace("/", "_")
        write_tree(root / place, cifar_entries())
        data = load_images("cifar10", root=root, download=False)
        assert data.name == "cifar10" and data.source == "CIFAR-10 (python batches)"
    (tmp_path / "one").mkdir()
    write_tar(tmp_path / "one" / "cifar-100-binary.tar.gz", cifar_entries(hundred=True, binary=True))
    assert load_images("cifar100", root=tmp_path / "one").source == "CIFAR-100 (binary batches)"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_batch_is_named(tmp_path, binary, packed):
    entries = cifar_entries(binary=binary)
    lost = "data_batch_3" + (".bin" if binary else "")
    del entries[lost]
    path = write_tar(tmp_path / "c.tar.gz", entries) if packed else write_tree(tmp_path / "c", entries)
    with pytest.raises(DataError, match=lost):
        load_images(path)


def test_a_short_binary_batch_is_named_with_its_end(tmp_path):
    entries = cifar_entries(binary=True)
    entries["data_batch_2.bin"] = entries["data_batch_2.bin"][:-3073]
    with pytest.raises(DataError, match=r"data_batch_2.bin: ends at byte 9219; 4 images of 3073 bytes end at 12292"):
        load_images(write_tree(tmp_path / "c", entries))


def test_a_label_without_a_class_is_named_with_its_byte():
    content = bytearray(cifar_entries(binary=True)["data_batch_1.bin"])
    content[2 * 3073] = 10
    with pytest.raises(DataError, match=r"batch: label 10 of image 2 \(byte 6146\) is none of the 10 classes"):
        read_binary(FORMATS[1], bytes(content), TRAIN_PER_FILE, "batch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((3, 3072), np.uint8)}, r"'data' is \(3, 3072\): expected uint8 of shape \(4, 3072\)"),
        ({b"data": np.zeros((4, 3072), np.float32)}, "expected uint8"),
        ({b"data": [1, 2]}, "'data' is list"),
        ({b"labels": [0, 1, 2]}, "no list of 4 whole numbers"),
        ({b"labels": [0, 1, 2, "x"]}, "no list of 4 whole numbers"),
        ({b"labels": [0, 1, 2, 10**30]}, "label 10 of image 3"),
        ({b"labels": [0, -3, 2, 1]}, "label -1 of image 1"),
    ],
)
def test_a_python_batch_of_another_shape_is_named(tmp_path, change, message):
    entries = cifar_entries()
    batch = pickle.loads(entries["data_batch_4"]) | change
    entries["data_batch_4"] = pickle.dumps(batch, protocol=2)
    with pytest.raises(DataError, match=f"data_batch_4: .*{message}"):
        load_images(write_tree(tmp_path / "c", entries))


def test_names_must_be_as_many_as_classes(tmp_path):
    for binary, meta in ((False, "batches.meta"), (True, "batches.meta.txt")):
        entries = cifar_entries(binary=binary)
        entries[meta] = b"one two" if binary else pickle.dumps({b"label_names": [b"one"]}, protocol=2)
        with pytest.raises(DataError, match=f"{meta}: does not hold the names of 10 classes"):
            load_images(write_tree(tmp_path / meta, entries))
    entries[meta] = b"\n".join([b"a"] * 9 + [b"\xff"])
    with pytest.raises(DataError, match="no UTF-8"):
        load_images(write_tree(tmp_path / meta, entries))


def test_archives_without_batches_and_lone_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no CIFAR batches in it"):
        load_images(write_tar(tmp_path / "c.tar.gz", {"readme": b"hello"}))
    assert cifar_format(["train", "other"]) is None
