"""Files cut short or with a bit turned over: an error that can be mended, or the very same data, and nothing else."""

import gzip
import pickle

import pytest
from data_files import (
    TRAIN_PER_FILE,
    cifar_entries,
    folder_entries,
    shorten_cifar,
    write_idx_set,
    write_tar,
    write_tree,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thrifty.core.errors import DataError
from thrifty.data import cifar, load_images

damages = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _flip(content, places):
    damaged = bytearray(content)
    for place, bit in places:
        damaged[int(place * len(content))] ^= 1 << bit
    return bytes(damaged)


def _outcome(path):
    """Return the data, or None after a proper error."""
    try:
        data = load_images(path)
    except DataError as error:
        assert "\n" not in str(error)
        return None
    return data


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(
    scope="module", params=["zip", "jpeg zip", "bare jpeg", "tar", "idx", "bare idx images", "bare idx labels"]
)
def healthy(request, tmp_path_factory, monkeypatch_module):
    """Return (what to load, the file to damage, its bytes, whether a checksum guards every byte of the data)."""
    shorten_cifar(monkeypatch_module)
    folder = tmp_path_factory.mktemp("healthy")
    if "zip" in request.param:
        form = ("JPEG", ".jpg") if "jpeg" in request.param else ("PNG", ".png")
        path = load = write_zip(folder / "set.zip", folder_entries(*form))
    elif "jpeg" in request.param:
        load = write_tree(folder / "set", folder_entries("JPEG", ".jpg"))
        path = load / "train" / "bee" / "004.jpg"
    elif request.param == "tar":
        path = load = write_tar(folder / "c.tar.gz", cifar_entries(binary=True))
    else:
        load = write_idx_set(folder / "idx")
        path = load / f"train-{'labels-idx1' if 'labels' in request.param else 'images-idx3'}-ubyte.gz"
        if "bare" in request.param:
            path.write_bytes(gzip.decompress(path.read_bytes()))
    return load, path, path.read_bytes(), "bare" not in request.param


@many
@given(places=damages)
def test_flipped_bits(healthy, places):
    load, path, content, guarded = healthy
    path.write_bytes(content)
    good = load_images(load)
    path.write_bytes(_flip(content, places))
    data = _outcome(load)
    if data is not None:
        assert data.train.images.shape == good.train.images.shape and data.test.images.shape == good.test.images.shape
        assert data.train.labels.max() < len(data.classes)
        if guarded:
            assert (data.train.images == good.train.images).all() and (data.train.labels == good.train.labels).all()
            assert data.classes == good.classes


@many
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncation(healthy, share):
    load, path, content, _ = healthy
    path.write_bytes(content[: int(share * len(content))])
    assert _outcome(load) is None


@pytest.fixture
def batches(tmp_path, monkeypatch):
    shorten_cifar(monkeypatch)
    return {binary: write_tree(tmp_path / str(binary), cifar_entries(binary=binary)) for binary in (False, True)}


@many
@given(places=damages, binary=st.booleans(), name=st.sampled_from(["data_batch_1", "test_batch", "batches.meta"]))
def test_flipped_bits_in_a_batch(batches, places, binary, name):
    path = batches[binary] / (name + ((".txt" if "meta" in name else ".bin") if binary else ""))
    content = path.read_bytes()
    path.write_bytes(_flip(content, places))
    data = _outcome(batches[binary])
    path.write_bytes(content)
    if data is not None:
        assert data.train.images.shape == (5 * TRAIN_PER_FILE, 32, 32, 3)
        assert data.train.labels.max() < 10 and len(data.classes) == 10


@many
@given(
    share=st.floats(0, 1, exclude_max=True), binary=st.booleans(), name=st.sampled_from(["data_batch_5", "test_batch"])
)
def test_truncated_batch(batches, share, binary, name):
    path = batches[binary] / (name + (".bin" if binary else ""))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert _outcome(batches[binary]) is None
    path.write_bytes(content)


@many
@given(content=st.binary(max_size=400))
def test_any_bytes_at_all(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    for name in ("x.zip", "x.tar.gz", "x"):
        (folder / name).write_bytes(content)
        assert _outcome(folder / name) is None
    idx = write_idx_set(folder / "idx")
    (idx / "train-images-idx3-ubyte.gz").write_bytes(content)
    assert _outcome(idx) is None


def test_every_single_bit_around_the_pixels_of_a_pickle(monkeypatch):
    shorten_cifar(monkeypatch)
    content = cifar_entries()["data_batch_1"]
    pixels = content.index(pickle.loads(content)[b"data"].tobytes()[:16].decode("latin1").encode())
    for place in [*range(pixels), *range(len(content) - 40, len(content))]:
        for bit in range(8):
            damaged = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            try:
                images, labels = cifar.read_python(cifar.FORMATS[0], damaged, TRAIN_PER_FILE, "batch")
            except DataError:
                continue
            assert images.shape == (TRAIN_PER_FILE, 32, 32, 3) and labels.shape == (TRAIN_PER_FILE,)
