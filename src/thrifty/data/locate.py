"""Where a data set lies: a path as given, or a name looked up below the data roots.

The roots are the folder given by the caller, else the one in THRIFTY_DATA, and after either ~/.cache/thrifty, where
fetched files are kept. The slice that comes with the package needs none.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from thrifty.core.errors import DataError, UsageError

from .augment import Augment
from .fetch import fetch
from .sets import LOADERS, SETS, NamedSet


@dataclass(frozen=True)
class Found:
    """A data set on disk; `named` says whether by a name of the table, `title` is "" where the format is to give it."""

    name: str
    path: Path
    named: bool
    title: str = ""
    classes: tuple[str, ...] = ()
    augment: Augment | None = None

    def source(self, format_title: str = "") -> str:
        """Return what reports call the data, given what the reader calls the format."""
        if self.title or self.named:
            return self.title or format_title
        return f"{self.name} ({format_title})" if format_title else self.name


@dataclass(frozen=True)
class SetStatus:
    """A row of `known_sets`: where a set was found, or else (`found` is None) how to get it."""

    name: str
    kind: str
    about: str
    found: Path | None
    how: str


def find_set(name_or_path: str | Path, kind: str, *, root: str | Path | None, download: bool) -> Found:
    """Return where a set of this kind is; a known name wins over a path of the same spelling.

    Raises:
        UsageError: when it is neither a known name nor a path, a set of another kind, or the root is no folder.
        DataError: when the set is known but not there and cannot be fetched, with the address, files and folder.
    """
    roots = list(data_roots(root))
    row = SETS.get(str(name_or_path))
    if row is None:
        path = Path(name_or_path).expanduser()
        if not path.exists():
            raise UsageError(_unknown(str(name_or_path)))
        return Found(path.resolve().name, path, named=False)
    if row.kind != kind:
        raise UsageError(f"{row.name} is a set of {row.kind}: load it with {LOADERS[row.kind]}")
    found = _look(row, roots)
    if found is None and download and row.remotes:
        fetch(row, cache_folder() / row.name)
        found = _look(row, roots)
    if found is None:
        raise DataError(f"{row.name} is not below {' or '.join(map(str, roots))}: {how_to_get(row, roots[0])}")
    return found


def known_sets(root: str | Path | None = None) -> list[SetStatus]:
    """Return every named set with the place where it was found, or how to get it; nothing is fetched."""
    roots = list(data_roots(root))
    table = []
    for row in SETS.values():
        found = _look(row, roots)
        how = "" if found else how_to_get(row, roots[0])
        table.append(SetStatus(row.name, row.kind, row.about, found.path if found else None, how))
    return table


def cache_folder() -> Path:
    """Return the folder of fetched files, ~/.cache/thrifty."""
    return Path.home() / ".cache" / "thrifty"


def data_roots(root: str | Path | None = None) -> Iterator[Path]:
    """Yield the folders that named sets are looked up in. Raises UsageError when the one given is no folder."""
    given = root if root is not None else os.environ.get("THRIFTY_DATA") or None
    if given is not None:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            where = "the data root" if root is not None else "THRIFTY_DATA"
            raise UsageError(f"{where} {folder} is not a folder: give the folder that holds the data sets")
        yield folder
    yield cache_folder()


def how_to_get(row: NamedSet, folder: Path) -> str:
    """Return address, expected files and folder, in half a sentence."""
    if row.packaged:
        return "it comes with the package: install thrifty anew"
    return f"get it from {row.address} and put {', '.join(row.files)} into {folder / row.name}"


def _look(row: NamedSet, roots: list[Path]) -> Found | None:
    if row.packaged:
        roots = [Path(str(resources.files(__package__)))]
    for root in roots:
        for place in row.places:
            path = root / place.path
            there = all(any(path.glob(pattern)) for pattern in place.needs) if place.needs else path.exists()
            if there:
                return Found(row.name, path, True, place.title, row.classes, row.augment)
    return None


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, SETS, n=1)
    hint = f"did you mean {near[0]}?" if near else "give a path to a folder or archive, or one of " + ", ".join(SETS)
    return f"no data set or path is called {name!r}: {hint}"
