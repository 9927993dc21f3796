"""What fuzz targets are made of: files of any bytes, seeds, and pickles within files of torch."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True)
class Target:
    """`seed()` is a whole file of the format; `read(content)` reads any bytes as one."""

    seed: Callable[[], bytes]
    read: Callable[[bytes], object]


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="thrifty-fuzz-"))


def file(name: str, content: bytes) -> Path:
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def written(name: str, write: Callable[[Path], object]) -> bytes:
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    return path.read_bytes()


def use(value: object) -> None:
    """What a resumed training does with a state: walk it, look at it, copy it."""
    str(value)
    if isinstance(value, torch.Tensor):
        value.clone()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        use(inner)


def rezipped(whole: Callable[[], bytes]) -> tuple[Callable[[], bytes], Callable[[bytes], bytes]]:
    """A target for the pickle within a file of torch: checksums are made anew, so that damage comes through."""

    def seed() -> bytes:
        with zipfile.ZipFile(io.BytesIO(whole())) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    def around(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole())) as old, zipfile.ZipFile(stream, "w") as new:
            for name in old.namelist():
                new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
        return stream.getvalue()

    return seed, around
