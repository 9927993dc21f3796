import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
import torch
from data_files import folder_entries, write_idx_set, write_tree, write_zip

from thrifty.core.errors import DataError, UsageError
from thrifty.data import Augment, known_sets, load_images, load_labelled_text, load_text, locate, progress, read_idx
from thrifty.data.subset import stratified

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_network_and_an_empty_home(monkeypatch, tmp_path):
    """Keep the user's cache and the network out of it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.delenv("THRIFTY_DATA", raising=False)

    def refuse(*args, **kwargs):
        raise requests.exceptions.ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(requests, "get", refuse)


def test_the_packaged_slice_needs_nothing():
    data = load_images("fashion-mnist-slice")
    assert data.train.images.shape == (11_500, 28, 28, 1) and data.test.images.shape == (2_000, 28, 28, 1)
    assert data.train.labels.bincount().tolist() == [1150] * 10 and data.test.labels.bincount().tolist() == [200] * 10
    assert data.classes[9] == "Ankle boot" and data.augment == Augment(flip=True, crop_padding=2)
    assert data.source == "Fashion-MNIST (slice of 11,500 + 2,000 images)"
    # No stretch of one class: the first images stand for the set.
    assert len(set(data.train.labels[:64].tolist())) == 10


def test_the_slice_is_small_and_carries_its_licence():
    files = list((Path(locate.__file__).parent / "fashion_mnist_slice").iterdir())
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert "MIT License" in next(path for path in files if path.name == "LICENSE").read_text()


@pytest.fixture
def slice_tool():
    spec = importlib.util.spec_from_file_location("make_slice", REPOSITORY / "tools" / "make_fashion_slice.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_slice_is_the_part_that_its_tool_takes(shared_data, slice_tool):
    for split, count in slice_tool.COUNTS.items():
        names = [f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"]
        images, labels = (read_idx(shared_data / "fashion-mnist" / name) for name in names)
        chosen = stratified(labels, count, seed=slice_tool.SEED)
        np.testing.assert_array_equal(read_idx(slice_tool.TARGET / names[0]), images[chosen])
        np.testing.assert_array_equal(read_idx(slice_tool.TARGET / names[1]), labels[chosen])


def test_the_tool_writes_a_set_that_can_be_read(tmp_path, slice_tool, monkeypatch):
    monkeypatch.setattr(slice_tool, "COUNTS", {"train": 6, "t10k": 3})
    source = write_idx_set(tmp_path / "whole")
    (source / "LICENSE").write_text("terms")
    for target in ("one", "two"):
        slice_tool.make_slice(source, tmp_path / target)
    assert load_images(tmp_path / "one").train.labels.bincount().tolist() == [2, 2, 2]
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(written) == 5
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in written)


def test_a_root_comes_before_the_environment_and_the_cache_after(tmp_path, monkeypatch):
    for place, count in (("root", 3), ("environment", 6), ("home/.cache/thrifty", 9)):
        write_idx_set(tmp_path / place / "fashion-mnist", train=count)
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path / "environment"))
    assert len(load_images("fashion-mnist", root=tmp_path / "root").train) == 3
    assert len(load_images("fashion-mnist").train) == 6
    monkeypatch.delenv("THRIFTY_DATA")
    assert len(load_images("fashion-mnist").train) == 9
    (tmp_path / "bare").mkdir()
    assert len(load_images("fashion-mnist", root=tmp_path / "bare").train) == 9


def test_the_jpeg_copy_of_cifar10_is_called_so(tmp_path):
    (tmp_path / "cifar10-jpeg75").mkdir()
    write_zip(tmp_path / "cifar10-jpeg75" / "cifar10.zip", folder_entries())
    assert load_images("cifar10", root=tmp_path).source == "CIFAR-10 (JPEG q75)"


def test_a_path_wins_over_nothing_but_a_name_wins_over_a_path(tmp_path, monkeypatch):
    write_tree(tmp_path / "fashion-mnist-slice", folder_entries())
    monkeypatch.chdir(tmp_path)
    assert load_images("fashion-mnist-slice").classes[0] == "T-shirt/top"
    assert load_images("./fashion-mnist-slice").classes == ("ant", "bee", "cat")


def test_a_missing_set_says_where_to_get_it(tmp_path):
    expected = (
        "imagenette-128 is not below .*root or .*thrifty: get it from https://github.com/fastai/imagenette and put "
        "imagenette-128.zip .* into .*root/imagenette-128"
    )
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match=expected):
        load_images("imagenette-128", root=tmp_path / "root")
    with pytest.raises(DataError, match=r"cifar-100-python.tar.gz into .*root/cifar100$"):
        load_images("cifar100", root=tmp_path / "root", download=False)


def test_a_fetch_that_fails_names_address_files_and_folder(tmp_path):
    expected = (
        r"^fashion-mnist could not be fetched from http://fashion-mnist.*train-images-idx3-ubyte.gz "
        r"\(no answer: is there a network\?\): put train-images.*t10k-labels-idx1-ubyte.gz into .*fashion-mnist, or"
    )
    with pytest.raises(DataError, match=expected):
        load_images("fashion-mnist")
    assert not (tmp_path / "home" / ".cache" / "thrifty" / "fashion-mnist").exists()


class _Served:
    """Stands for an answer of a server."""

    def __init__(self, content):
        self.content, self.headers = content, {"content-length": str(len(content))}

    def raise_for_status(self):
        pass

    def iter_content(self, chunk_size):
        yield self.content

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_fetched_is_checked_and_kept(tmp_path, monkeypatch, terminal):
    source = write_idx_set(tmp_path / "server")
    asked = []

    def get(address, **kwargs):
        asked.append(address)
        return _Served((source / address.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(progress, "watched", lambda: terminal)
    monkeypatch.setattr("thrifty.data.fetch.watched", lambda: terminal)
    with pytest.raises(DataError, match=r"could not be fetched from .*hash"):
        load_images("fashion-mnist")
    assert not list((tmp_path / "home" / ".cache" / "thrifty").rglob("*.gz"))

    monkeypatch.setattr(pooch.core, "hash_matches", lambda *args, **kwargs: True)
    asked.clear()
    assert len(load_images("fashion-mnist").train) == 12 and len(asked) == 4
    assert len(load_images("fashion-mnist").train) == 12 and len(asked) == 4


def test_wrong_usage_is_said(tmp_path):
    for call, message in (
        (lambda: load_images("fashion-mnits"), "called 'fashion-mnits': did you mean fashion-mnist"),
        (lambda: load_images("nowhere/at/all"), "give a path to a folder or archive, or one of fashion-mnist-slice"),
        (lambda: load_images("ptb"), "ptb is a set of text: load it with load_text"),
        (lambda: load_text("cifar10"), "cifar10 is a set of images: load it with load_images"),
        (lambda: load_labelled_text("brown"), "load it with load_text"),
        (lambda: load_images("cifar10", root=tmp_path / "none"), "the data root .*none is not a folder"),
        (lambda: load_images("fashion-mnist-slice", limit_train=0), "limit_train is 0"),
        (lambda: load_images("fashion-mnist-slice", limit_test=-1), "limit_test is -1"),
        (lambda: load_images("fashion-mnist-slice", image_size=0), "image_size is 0"),
        (lambda: load_images("fashion-mnist-slice", image_size=(4, 4, 4)), "image_size is"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_a_file_of_no_known_format_and_an_empty_folder_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt: neither a zip nor a .tar.gz"):
        load_images(tmp_path / "notes.txt")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void: no images that can be read"):
        load_images(tmp_path / "void")


def test_a_limit_is_a_choice_by_seed():
    whole = load_images("fashion-mnist-slice")
    part, same, other = (
        load_images("fashion-mnist-slice", limit_train=50, limit_test=20, seed=seed) for seed in (0, 0, 1)
    )
    assert part.train.labels.bincount().tolist() == [5] * 10 and part.test.labels.bincount().tolist() == [2] * 10
    assert torch.equal(part.train.images, same.train.images)
    assert not torch.equal(part.train.images, other.train.images)
    rows = {image.numpy().tobytes() for image in whole.train.images}
    assert all(image.numpy().tobytes() in rows for image in part.train.images)


def test_a_new_size_for_decoded_images():
    data = load_images("fashion-mnist-slice", limit_train=10, limit_test=10, image_size=32)
    assert data.train.images.shape == (10, 32, 32, 1) and data.image_size == (32, 32)


def test_known_sets_says_what_is_there_and_how_to_get_the_rest(tmp_path):
    write_idx_set(tmp_path / "fashion-mnist")
    table = {row.name: row for row in known_sets(tmp_path)}
    assert table["fashion-mnist"].found == tmp_path / "fashion-mnist" and table["fashion-mnist"].how == ""
    assert table["fashion-mnist-slice"].found is not None
    assert table["ptb"].found is None and f"into {tmp_path}/ptb" in table["ptb"].how
    assert {row.kind for row in table.values()} == {"images", "labelled text", "next items", "text"}


def test_decoding_shows_a_bar_only_to_somebody_who_watches(tmp_path, monkeypatch, capsys):
    path = write_tree(tmp_path / "set", folder_entries())
    load_images(path)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "watched", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    load_images(path)
    shown = capsys.readouterr()
    assert shown.out == "" and "Decoding set train" in shown.err


def test_importing_is_light():
    code = "import sys, thrifty.data as d; assert 'load_images' in dir(d); print([m for m in sys.modules if m in LIST])"
    heavy = ["PIL", "pooch", "requests", "rich", "matplotlib"]
    found = subprocess.run(
        [sys.executable, "-c", code.replace("LIST", str(heavy))],
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_an_unknown_attribute_is_an_attribute_error():
    import thrifty.data

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = thrifty.data.nothing


def test_real_sets_are_what_is_known_of_them(shared_data):
    data = load_images("cifar10", root=shared_data, limit_train=2000, limit_test=500)
    assert data.source == "CIFAR-10 (JPEG q75)" and data.classes[0] == "airplane" and data.classes[9] == "truck"
    torch.testing.assert_close(data.mean, torch.tensor([0.4913, 0.4821, 0.4465]), atol=0.02, rtol=0)
    torch.testing.assert_close(data.std, torch.tensor([0.2452, 0.2428, 0.2606]), atol=0.02, rtol=0)
    full = load_images("fashion-mnist", root=shared_data)
    assert len(full.train) == 60_000 and full.train.labels.bincount().tolist() == [6000] * 10
    small = load_images("imagenette-128", root=shared_data, limit_train=20, limit_test=20, image_size=64)
    assert small.train.images.shape == (20, 64, 64, 3) and len(small.classes) == 10
    tiny = load_images("tiny-imagenet-25", root=shared_data, limit_train=25, limit_test=25)
    assert tiny.image_size == (64, 64) and len(tiny.classes) == 25
