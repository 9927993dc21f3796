"""Checkpoints of several workers that strangers made: read as written, never run, never larger than they are."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter

from thrifty.core.errors import CheckpointError
from thrifty.distributed.workers import ALONE
from thrifty.train import checkpoint, sharded

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
IDENTITY = {"seed": 0, "arm": {"name": "dense"}}
SHARED = {
    "weight": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "half": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(3), "empty": torch.empty(0, 4),
    "turned": torch.arange(6.0).view(2, 3).t(), "column": torch.arange(12.0).view(4, 3)[:, 1],
    "wide": torch.ones(1).expand(5), "plain": [1, 2.5, None, {"a": "b"}, True],
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    sharded.save(tmp_path, SHARED, {"rng": torch.arange(5)}, identity=IDENTITY, workers=ALONE)
    return tmp_path / "last"


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        sharded.read(path, 0)
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_read_as_it_was(path):
    assert sharded.check(path)["identity"] == IDENTITY
    state = sharded.read(path, 0)
    for key, value in SHARED.items():
        if isinstance(value, torch.Tensor):
            found = state["shared"][key]
            assert torch.equal(found, value) and found.dtype == value.dtype
            assert key == "wide" or found.stride() == value.stride()
    assert state["shared"]["plain"] == SHARED["plain"] and state["workers"] == 1
    assert torch.equal(state["own"][0]["rng"], torch.arange(5)) and sharded.read(path, 3)["own"] == {}


def named(*names):
    return b"".join(b"\x8c" + bytes([len(name)]) + name.encode() for name in names) + b"\x93"


@pytest.mark.parametrize("module", ["torch.distributed.checkpoint.filesystem", "pathlib"])
def test_metadata_cannot_call_what_is_within_what_it_may_name(path, tmp_path, monkeypatch, module):
    """Names with dots reach every function of a class's module, and from there everything."""
    monkeypatch.chdir(tmp_path)
    target = named("pathlib", "PosixPath") + b"\x8c\x04evil\x85R"
    (path / ".metadata").write_bytes(b"\x80\x04" + named(module, "Path.touch") + target + b"\x85R.")
    refused(path, r"names .*Path.touch, which no checkpoint does")
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (named("torch.distributed.checkpoint.metadata", "Metadata") + b")R", "calls something"),
        (named("torch", "Size") + b")\x81", "makes an object"),
        (named("torch.distributed.checkpoint.metadata", "Metadata") + b"}b", "sets the state"),
        (named("torch", "Tensor") + b")R", "names torch.Tensor"),
        (b"\x96" + (1 << 40).to_bytes(8, "little"), "150"),
        (b"}", "storage_data"),
    ],
)
def test_metadata_is_no_program(path, program, match):
    (path / ".metadata").write_bytes(b"\x80\x04" + program + b".")
    refused(path, match)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_a_tensor_that_the_metadata_calls_bytes_is_not_unpickled(tmp_path, monkeypatch):
    """torch's own reader would: its planner loads bytes by a pickle that may name anything."""
    monkeypatch.chdir(tmp_path)
    note = {"model": {sharded._TENSOR: ["shared.model", "float32", [2], [1]]}}
    dcp.save({"shared": sharded._to_bytes(note), "shared.model": Evil()}, storage_writer=FileSystemWriter("last"))
    refused(Path("last"), "not a whole tensor|no size|is damaged")
    assert not Path("evil").exists()


def grown(metadata):
    about = metadata.state_dict_metadata["shared.half"]
    about.size = about.chunks[0].sizes = torch.Size([1 << 40])


def elsewhere(metadata):
    for info in metadata.storage_data.values():
        info.relative_path = "../last/" + info.relative_path


def doubled(metadata):
    about, info = metadata.state_dict_metadata["shared"], metadata.storage_data
    (index,) = (index for index in info if index.fqn == "shared")
    for i in range(100):
        metadata.state_dict_metadata[f"shared.{i}"] = about
        info[type(index)(f"shared.{i}", index.offset)] = info[index]


def another(metadata):
    metadata.state_dict_metadata["shared.half"].properties.dtype = torch.float16


def gone(metadata):
    del metadata.state_dict_metadata["shared"]


def packed(metadata):
    next(iter(metadata.storage_data.values())).transform_descriptors = ["zstd"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (grown, r"a tensor claims \d+ of \d+ bytes"), (elsewhere, "is no file of the folder"),
        (doubled, r"it finds \d+ bytes in __0_0.distcp, which has"), (another, "has not the shape that"),
        (gone, "what all workers share is missing"), (packed, "packed in a way"),
    ],
)  # fmt: skip
def test_metadata_that_promises_something_else_is_refused(path, change, match):
    metadata = FileSystemReader(path).read_metadata()
    change(metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    refused(path, match)


def note(key="shared.a", shape=(2,), stride=(1,)):
    return {sharded._TENSOR: [key, "float32", list(shape), list(stride)]}


@pytest.mark.parametrize(
    ("shared", "match"),
    [
        ([note(), note()], "shared.a"),  # a second time: few bytes could pass for many
        ([note(key="shared.b")], "shared.b"),
        ([note(shape=(3,))], "noted with another shape"),
        ([note(stride=(1 << 40,))], "claim bytes that it does not hold"),
        ([note(stride=(-1,))], "steps backwards"),
        ([{sharded._TENSOR: ["shared.a"]}], "not enough values"),
        ([{sharded._TENSOR: 3}], "cannot unpack"),
    ],
)
def test_notes_of_tensors_that_are_none_are_refused(tmp_path, shared, match):
    tensors = {"shared": sharded._to_bytes(shared), "shared.a": torch.ones(2)}
    dcp.save(tensors, storage_writer=FileSystemWriter(tmp_path / "last"))
    refused(tmp_path / "last", match)


def test_a_tensor_in_a_file_may_not_claim_more_than_it_holds(path):
    (held,) = path.glob("__0_0*")
    stream = io.BytesIO()
    torch.save(torch.zeros(1, dtype=torch.bfloat16).expand(3), stream)
    metadata = FileSystemReader(path).read_metadata()
    (info,) = (info for index, info in metadata.storage_data.items() if index.fqn == "shared.half")
    info.offset, info.length = held.stat().st_size, len(stream.getvalue())
    held.write_bytes(held.read_bytes() + stream.getvalue())
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    refused(path, "claims more than it holds")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda told: told.update(format=[2]), "has format '\\[2\\]'"),
        (lambda told: told.update(identity=[1]), "its manifest names no run"),
        (lambda told: told.update(workers="2"), "its manifest names no run"),
        (lambda told: told["files"].update({"../last/.metadata": [1, "0"]}), "its manifest names '../last/.metadata'"),
        (lambda told: told["files"].update({"x" * 5000: [1, "0"]}), "cannot be read"),
        (lambda told: told.update(files=[[1, 2]]), "its manifest names 1"),
    ],
)
def test_a_manifest_that_is_none_is_told_in_a_line(path, change, match):
    told = json.loads((path / "manifest.json").read_text())
    change(told)
    (path / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoint.find(path.parent, identity=IDENTITY)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_nests_without_end(path):
    (path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="truncated, damaged or no checkpoint"):
        sharded.check(path)


@pytest.mark.parametrize("value", [torch.ones(2), "a\nb"])
def test_another_run_is_told_in_a_line_whatever_it_says(tmp_path, value):
    checkpoint.save(tmp_path, {}, identity={"seed": value})
    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        checkpoint.find(tmp_path, identity={"seed": torch.zeros(2)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"identity": [1]}, {"format": torch.ones(2, 2)}])
def test_a_file_that_names_no_run_is_told_in_a_line(tmp_path, change):
    torch.save({"format": 2, "identity": {}, "state": {}, **change}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of|has format") as caught:
        checkpoint.find(tmp_path, identity=IDENTITY)
    assert "\n" not in str(caught.value)
