"""Fuzz targets for what a training leaves behind: hash tables, merge plans, checkpoints of several workers."""

import importlib.util
import io
import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from fuzz_files import Target, file, folder, rezipped, use, written

from thrifty.core import tensors_file
from thrifty.core.errors import CheckpointError
from thrifty.distributed import GradientProfile, TransferCost, make_plan
from thrifty.distributed.saved import Circumstances, Measured, changed, read, save
from thrifty.distributed.workers import ALONE
from thrifty.lsh import Hashing, LSHSoftmaxLoss, load_tables, save_tables
from thrifty.train import checkpoint, sharded

CLASSES, FEATURES = 40, 4
IDENTITY = {"seed": 0, "arm": {"name": "dense"}}


def _head() -> LSHSoftmaxLoss:
    torch.manual_seed(0)
    hashing = Hashing(tables=2, bits=2, family="fitted", refresh_every=1)
    return LSHSoftmaxLoss(FEATURES, CLASSES, active=8, tail=8, when="hashed", hashing=hashing)


def _use_tables(head: LSHSoftmaxLoss) -> None:
    """Search, train and move classes in the tables, as after any loading: every answer is a class."""
    x = torch.randn(6, FEATURES)
    _, ids = head.eval().topk(x, 3)
    assert ids.min() >= 0 and ids.max() < CLASSES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head.train()(x, torch.arange(6)).backward()
    with torch.no_grad():
        head.weight.neg_()
    head.index.refresh_all(head.weight, head.bias)
    assert int(head.index.tables.slots.min()) >= 0 and int(head.index.tables.slots.max()) < CLASSES
    assert head.index.drift(head.weight, head.bias, 0) == 0


def _tables_seed(name: str) -> bytes:
    return written(name, lambda path: save_tables(_head(), path))


def _read_tables(name: str, content: bytes) -> None:
    head = _head()
    path = file(name, content)
    try:
        load_tables(head, path)
    except CheckpointError:
        assert head.index is None
        raise
    _use_tables(head)
    assert path.read_bytes() == content


@cache
def _state_seed() -> bytes:
    head, stream = _head(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head(torch.randn(6, FEATURES), torch.arange(6))
    torch.save(head.index_state(), stream)
    return stream.getvalue()


def _read_state(content: bytes) -> None:
    head = _head()
    try:
        state = tensors_file.read_bytes(content)
    except tensors_file.DamagedFileError as error:
        raise CheckpointError(str(error)) from error
    head.load_index_state(state)
    _use_tables(head)


def _plan_seed() -> bytes:
    profile = GradientProfile(("b", "a"), (4, 400), (0.25, 0.5), 0.5, 0.25, (0.125, 0.0))
    cost = TransferCost((0.0, 1024.0), (0.125, 0.25), (0.125, 0.375))
    now = Circumstances("0f", "", ("here", "there"), "gloo", "cpu", 1, "2.6")
    measured = Measured(now, profile, cost, make_plan(profile, cost, in_flight=2))
    return written("seed.json", lambda path: save(path, measured))


def _read_plan(content: bytes) -> None:
    measured = read(file("plan.json", content))
    changed(measured, measured.circumstances)
    plan = make_plan(measured.profile, measured.cost, in_flight=2)
    assert sum(plan.counts) == len(measured.profile.names) == sum(measured.plan.counts)
    measured.profile.sent_as(2.0)


def _shared() -> dict[str, Any]:
    return {
        "model": {"weight": torch.arange(6.0).view(2, 3), "mean": torch.zeros(3, dtype=torch.bfloat16)},
        "moments": [torch.arange(8.0).view(2, 4).t(), torch.tensor(3)],
        "tally": {"losses": torch.ones(4, dtype=torch.float64), "epochs": [{"epoch": 1, "train_loss": 2.0}]},
    }


@cache
def _whole() -> Path:
    """A checkpoint of several workers, written by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sharded.save(folder() / "several", _shared(), {"rng": torch.zeros(3)}, identity=IDENTITY, workers=ALONE)
    return folder() / "several" / "last"


def _read_several(name: str, content: bytes) -> None:
    """The checkpoint with another file of this name; its manifest agrees, so that damage comes through."""
    path = Path(shutil.copytree(_whole(), folder() / "changed" / "last", dirs_exist_ok=True))
    (path / name).write_bytes(content)
    _agree(path)
    state, _ = checkpoint.load(path.parent, identity=IDENTITY)
    use(state)


def _agree(path: Path) -> None:
    manifest = path / "manifest.json"
    told = json.loads(manifest.read_text(encoding="utf-8"))
    told["files"] = {name: sharded._digest(path / name) for name in told["files"]}
    manifest.write_text(json.dumps(told), encoding="utf-8")


def _read_manifest(content: bytes) -> None:
    path = Path(shutil.copytree(_whole(), folder() / "told" / "last", dirs_exist_ok=True))
    (path / "manifest.json").write_bytes(content)
    use(checkpoint.load(path.parent, identity=IDENTITY)[0])


def _notes() -> bytes:
    """What a checkpoint of several workers says of its tensors and of what is none."""
    stream, tensors = io.BytesIO(), dict[str, torch.Tensor]()
    torch.save(sharded._taken_apart(_shared(), tensors, "shared"), stream)
    return stream.getvalue()


def _read_notes(content: bytes) -> None:
    path = folder() / "noted" / "last"
    shutil.rmtree(path, ignore_errors=True)
    tensors: dict[str, torch.Tensor] = {}
    sharded._taken_apart(_shared(), tensors, "shared")
    tensors["shared"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path, sync_files=False), no_dist=True)
    use(sharded.read(path, 0))


_tables_pickle_seed, _around_tables = rezipped(cache(lambda: _tables_seed("seed.pt")))
_state_pickle_seed, _around_state = rezipped(_state_seed)
_notes_pickle_seed, _around_notes = rezipped(cache(_notes))

LEFT = {
    "hash tables": Target(lambda: _tables_seed("seed.pt"), lambda content: _read_tables("tables.pt", content)),
    "hash tables pickle": Target(
        _tables_pickle_seed, lambda content: _read_tables("tables.pt", _around_tables(content))
    ),
    "hash tables state": Target(_state_pickle_seed, lambda content: _read_state(_around_state(content))),
    "merge plan": Target(_plan_seed, _read_plan),
    "several workers: manifest": Target(lambda: (_whole() / "manifest.json").read_bytes(), _read_manifest),
    "several workers: metadata": Target(
        lambda: (_whole() / ".metadata").read_bytes(), lambda content: _read_several(".metadata", content)
    ),
    "several workers: tensors": Target(
        lambda: (_whole() / "__0_0.distcp").read_bytes(), lambda content: _read_several("__0_0.distcp", content)
    ),
    "several workers: notes": Target(_notes_pickle_seed, lambda content: _read_notes(_around_notes(content))),
}
if importlib.util.find_spec("safetensors"):
    LEFT["hash tables, safetensors"] = Target(
        lambda: _tables_seed("seed.safetensors"), lambda content: _read_tables("tables.safetensors", content)
    )
