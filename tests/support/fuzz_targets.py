"""Fuzz targets: for every file format that is read, a whole file to start from and a function that reads any bytes.

A target may raise nothing but `ThriftyError`, with a message of one line. Anything else that leaves it is a finding.
"""

import gzip
import io
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from data_files import cifar_entries, folder_entries, write_tar, write_zip
from fuzz_files import Target, file, folder, rezipped, use, written
from fuzz_left import LEFT
from torch import nn

from thrifty.core.errors import DataError, ThriftyError
from thrifty.data import cifar, load_next_items, read_idx, read_xc, stream_xc
from thrifty.data.imagefolder import read_image_zip
from thrifty.data.load import load_images
from thrifty.report import load as load_report
from thrifty.report.record import parse
from thrifty.reuse import freeze, load_frozen, save_frozen
from thrifty.train import checkpoint
from thrifty.train.folder import read_record

# A few images a batch instead of ten thousand.
SHORT = tuple(replace(layout, images_per_train_file=4, images_per_test_file=3) for layout in cifar.FORMATS)


def _idx_seed() -> bytes:
    from thrifty.data import write_idx

    return written("seed.idx", lambda path: write_idx(path, torch.arange(60, dtype=torch.uint8).view(4, 3, 5).numpy()))


def _bare_idx_seed() -> bytes:
    return gzip.decompress(_idx_seed())


def _read_cifar_pickle(content: bytes) -> None:
    cifar.read_python(SHORT[0], content, 4, "batch")


def _read_cifar_archive(content: bytes) -> None:
    before, cifar.FORMATS = cifar.FORMATS, SHORT
    try:
        cifar.read_cifar_archive(file("set.tar.gz", content))
    finally:
        cifar.FORMATS = before


def _read_zip(content: bytes) -> None:
    raw = read_image_zip(file("set.zip", content))
    for split in (raw.train, raw.test):
        split.pixels(torch.arange(len(split.labels)).numpy(), None)


def _read_any_set(content: bytes) -> None:
    load_images(file("any", content))


def _checkpoint_seed() -> bytes:
    state = {
        "model": {"weight": torch.arange(6.0).view(2, 3), "mean": torch.zeros(3, dtype=torch.bfloat16)},
        "tally": {"losses": torch.ones(4, dtype=torch.float64), "epochs": [{"epoch": 1, "train_loss": 2.0}]},
    }
    checkpoint.save(folder() / "saved", state, identity={"seed": 0, "arm": {"name": "dense"}})
    return (folder() / "saved" / "last.pt").read_bytes()


def _read_checkpoint(content: bytes) -> None:
    file("checkpoints/last.pt", content)
    state, _ = checkpoint.load(folder() / "checkpoints", identity=None)
    use(state)


@cache
def _frozen() -> tuple[nn.Module, bytes]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    frozen = freeze(model, [torch.randn(4, 3, 8, 8) for _ in range(2)], max_loss=1.0)
    return model, written("seed.frozen", lambda path: save_frozen(frozen, path))


def _read_frozen(content: bytes) -> None:
    load_frozen(file("frozen", content), _frozen()[0])


def _record_seed() -> bytes:
    arm = {
        "name": "reuse", "methods": [{"_type": "Reuse", "_version": 1, "_data": {"stages": []}}], "status": "finished",
        "test_accuracy": 0.5, "train_s": 2.5, "epochs": [{"epoch": 1, "train_loss": 1.5, "test_accuracy": 0.5}],
        "layers": [{"name": "0", "action": "reuse", "stages_s": {"conv": 1.0}}], "trace": [], "events": [],
    }  # fmt: skip
    record = {"format": 1, "status": "finished", "settings": {"model": "cifarnet"}, "machine": {}, "arms": [arm]}
    return json.dumps(record).encode()


def _read_report(content: bytes) -> None:
    from thrifty.report.cite import bibtex, methods_of
    from thrifty.report.terminal import table
    from thrifty.report.writer import page

    file("run/result.json", content)
    record = load_report(folder() / "run")
    table(record), page(record, {}), bibtex(methods_of(record))
    assert parse({}).arms == ()


def _read_record(content: bytes) -> None:
    file("run/result.json", content)
    read_record(folder() / "run")


def _items_seed() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, items=np.arange(1, 13), offsets=np.array([0, 5, 12]))
    return stream.getvalue()


def _read_items(content: bytes) -> None:
    data = load_next_items(file("items.npz", content))
    data.training(4), data.held_out("test", 4)


XC = b"3 5 4\n0,3 0:1.5 4:2\n1 2:0.5\n 3:1\n"


def _read_rows(content: bytes) -> None:
    """As a whole and in batches: both take a file, or neither does."""
    path = file("x.txt", content)
    try:
        whole = read_xc(path)
    except DataError:
        with pytest.raises(DataError):
            list(stream_xc(path, batch=2))
        raise
    assert sum(map(len, stream_xc(path, batch=2))) == len(whole)


_pickle_seed, _around_pickle = rezipped(cache(_checkpoint_seed))
_frozen_pickle_seed, _around_frozen = rezipped(lambda: _frozen()[1])

TARGETS = {
    "idx": Target(_idx_seed, lambda content: read_idx(file("x.idx", content))),
    "bare idx": Target(_bare_idx_seed, lambda content: read_idx(file("x.idx", content))),
    "cifar pickle": Target(lambda: cifar_entries()["data_batch_1"], _read_cifar_pickle),
    "cifar archive": Target(
        lambda: written("seed.tar.gz", lambda path: write_tar(path, cifar_entries())), _read_cifar_archive
    ),
    "image zip": Target(lambda: written("seed.zip", lambda path: write_zip(path, folder_entries())), _read_zip),
    "any set": Target(lambda: written("seed.zip", lambda path: write_zip(path, folder_entries())), _read_any_set),
    "checkpoint": Target(_checkpoint_seed, _read_checkpoint),
    "checkpoint pickle": Target(_pickle_seed, lambda content: _read_checkpoint(_around_pickle(content))),
    "frozen pickle": Target(_frozen_pickle_seed, lambda content: _read_frozen(_around_frozen(content))),
    "next items": Target(_items_seed, _read_items),
    "xc text": Target(lambda: XC, lambda content: _read_rows(content)),
    "xc text, gzipped": Target(lambda: gzip.compress(XC), lambda content: _read_rows(content)),
    "frozen file": Target(lambda: _frozen()[1], _read_frozen),
    "report": Target(_record_seed, _read_report),
    "record to resume": Target(_record_seed, _read_record),
    **LEFT,
}


def check(name: str, content: bytes) -> bool:
    """Read `content` as the format `name`; whether it was taken. Raises whatever a target must not raise."""
    try:
        TARGETS[name].read(content)
    except ThriftyError as error:
        if "\n" in str(error):
            raise AssertionError(f"{name}: a message of several lines: {error}") from error
        return False
    return True
