"""Files of tensors that strangers made: read like torch does, refused where they are more, or less, than they claim."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch

from thrifty.core.tensors_file import DamagedFileError, read, read_bytes

STATE = {
    "weights": torch.arange(6.0).view(2, 3), "half": torch.ones(4, dtype=torch.bfloat16),
    "flags": torch.tensor([True]),
    "numbers": [1, 2.5, None, "text", (True, {"inner": torch.ones(2, dtype=torch.int8)})],
    "complex": torch.ones(2) * 1j,
    "strided": torch.arange(12).view(3, 4).t(), "small": torch.ones(1).expand(5), "empty": torch.empty(0),
}  # fmt: skip


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def rewritten(content: bytes, *, change=lambda name, data: data, **settings) -> bytes:
    """The zip with every entry's data changed, or stored in another way; checksums agree again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", **settings) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return stream.getvalue()


def refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_what_torch_saves_is_read(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(saved(STATE))
    found = read(path)
    torch.testing.assert_close(found["weights"], STATE["weights"])
    assert found["numbers"][:4] == STATE["numbers"][:4] and found["strided"].stride() == (1, 4)
    assert found["half"].dtype == torch.bfloat16 and found["small"].shape == (5,) and found["empty"].numel() == 0


def test_what_torch_saves_into_memory_is_read():
    assert torch.equal(read_bytes(saved(STATE))["weights"], STATE["weights"])
    with pytest.raises(DamagedFileError, match="does not begin as a zip"):
        read_bytes(b"")


MANY = (1 << 30).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (b"c__builtin__\nbytearray\nJ" + MANY + b"\x85R", "makes a bytearray of a size that it names"),
        (b"ctorch\nTensor\nJ" + MANY + b"\x85R", "makes a Tensor of a size"),
        (b"ctorch\nFloatTensor\nJ" + MANY + b"\x85R", "makes a FloatTensor of a size"),
        (b"ctorch.storage\nUntypedStorage\nJ" + MANY + b"\x85\x81", "makes a UntypedStorage of a size"),
        (b"\x96" + (1 << 40).to_bytes(8, "little"), "150"),  # an instruction that reserves what it is told to
    ],
)
def test_memory_of_a_size_that_the_pickle_names_is_refused(tmp_path, program, match):
    def change(name: str, data: bytes) -> bytes:
        return b"\x80\x02" + program + b"." if name.endswith("data.pkl") else data

    refused(tmp_path, rewritten(saved({"a": 1}), change=change), match)


def test_a_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")


def test_an_entry_that_could_swell_is_refused(tmp_path):
    content = rewritten(saved({"zeros": torch.zeros(1 << 20)}), compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 1 << 16
    refused(tmp_path, content, "do not fit in the file|is compressed")


def test_a_tensor_that_claims_more_than_its_entry_is_refused(tmp_path):
    """Its tensor would show memory of somebody else: this is not left to torch, whose versions differ in it."""

    def shorten(name: str, data: bytes) -> bytes:
        return data[:8] if re.search(r"data/\d+$", name) else data

    content = rewritten(saved({"weights": torch.arange(100.0)}), change=shorten)
    refused(tmp_path, content, "claims 400 bytes of its entry data/0")


def test_a_tensor_of_terabytes_in_four_bytes_is_refused(tmp_path):
    refused(tmp_path, saved({"huge": torch.zeros(1).expand(1 << 40)}), "claim 4398046511104 bytes")


def test_nested_parts_that_would_never_end_are_refused(tmp_path):
    billions: object = [0] * 10
    for _ in range(9):
        billions = [billions] * 10
    refused(tmp_path, saved({"state": billions}), "more values than a training can have")


def test_a_list_that_holds_itself_is_refused(tmp_path):
    endless: list[object] = []
    endless.append(endless)
    refused(tmp_path, saved({"state": endless}), "more values")


class Touch:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_code_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, saved({"state": Touch()}), ".")
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "does not begin as a zip"),
        (b"PK\x03\x04" + b"\0" * 100, "not a zip"),
        (pickle.dumps({"a": 1}), "does not begin as a zip"),
        (b"more" + saved({"a": 1}), "does not begin as a zip"),
    ],
)
def test_other_files_are_refused(tmp_path, content, match):
    refused(tmp_path, content, match)


def test_checksums_are_looked_at(tmp_path):
    content = bytearray(saved({"weights": torch.arange(100.0)}))
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 7] ^= 1
    refused(tmp_path, bytes(content), "damaged at its entry .*data/0")


def test_two_entries_of_one_name_are_refused(tmp_path):
    stream = io.BytesIO(saved({"weights": torch.arange(4.0)}))
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"")
    refused(tmp_path, stream.getvalue(), "not the entries that torch writes")
