"""A progress bar on stderr, only where somebody is watching."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


def watched() -> bool:
    """Say whether stderr is a terminal."""
    return sys.stderr.isatty()


def bar() -> "AbstractContextManager[Progress]":
    """Return a rich progress display on stderr that goes away when done."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True)


def track(steps: Iterable[tuple[int, T]], what: str, total: int) -> Iterator[T]:
    """Yield the second of each (advance, item), and show how far the advances have come towards `total`."""
    if not watched():
        yield from (item for _, item in steps)
        return
    with bar() as progress:
        task = progress.add_task(what, total=total)
        for advance, item in steps:
            progress.advance(task, advance)
            yield item
