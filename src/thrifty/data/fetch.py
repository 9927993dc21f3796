"""Files from their official address, checked against the published MD5 before they get their name."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.core.errors import DataError

from .progress import bar, watched
from .sets import NamedSet, Remote

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_TIMEOUT_S = 20
_CHUNK_BYTES = 1 << 16


def fetch(row: NamedSet, folder: Path) -> None:
    """Put every file of a set into `folder`, keeping those that are there and whole.

    Raises DataError, with the address, the expected files and the folder, when one cannot be had.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    for remote in row.remotes:
        try:
            pooch.retrieve(
                remote.address,
                known_hash=f"md5:{remote.md5}",
                fname=remote.file,
                path=folder,
                downloader=_Download(remote),
            )
        # requests, urllib3, sockets, a full disk, a checksum that differs: all end in the same advice.
        except (OSError, ValueError) as error:
            with suppress(OSError):
                folder.rmdir()
            raise DataError(
                f"{row.name} could not be fetched from {remote.address} ({_reason(error)}): "
                f"put {', '.join(row.files)} into {folder}, or say where they are with THRIFTY_DATA"
            ) from error


def _reason(error: Exception) -> str:
    from requests.exceptions import ConnectionError, Timeout

    # The text of these two is a chain of wrapped exceptions that tells a reader no more.
    if isinstance(error, ConnectionError | Timeout):
        return "no answer: is there a network?"
    return " ".join(str(error).split())[:200]


class _Download:
    """A download of pooch over HTTP, with a bar where somebody watches."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def __call__(self, url: str, output_file: object, pooch: object) -> None:
        from pooch import HTTPDownloader

        if not watched():
            HTTPDownloader(chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S)(url, output_file, pooch)
            return
        with bar() as progress:
            shown = _Bar(progress, progress.add_task(self.remote.file, total=None))
            HTTPDownloader(progressbar=shown, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S)(url, output_file, pooch)


class _Bar:
    """What pooch expects of a progress bar, drawn by rich."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress, self._task = progress, task

    @property
    def total(self) -> float | None:
        """Bytes of the whole file, None while unknown."""
        return self._progress.tasks[0].total

    @total.setter
    def total(self, value: float) -> None:
        self._progress.update(self._task, total=value)

    def update(self, advance: float) -> None:
        """Move on by so many bytes."""
        self._progress.advance(self._task, advance)

    def reset(self) -> None:
        """Begin again at 0."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Nothing to do: the display that owns the bar removes it."""
