"""The next batch is made while a step runs: one thread, which stays a batch or two ahead of who asks."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
DEPTH = 2


class _End:
    """No more items, and why: the error that ended them, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def ahead(items: Iterable[T], depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """Within `with`, an iterator over `items` that are made in a thread, up to `depth` before they are asked for.

    Items, their order and the error that may end them are those of `items`. Leaving early ends the thread after the
    item that it is making.
    """
    maker = _Maker(items, depth)
    try:
        yield maker
    finally:
        maker.stop()


class _Maker(Iterator[T], Generic[T]):
    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._made: queue.Queue[T | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._make, name="batches", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        item = self._made.get()
        if isinstance(item, _End):
            self._ended = True
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def stop(self) -> None:
        """Make no more; returns when the thread has ended."""
        self._stopped.set()
        while self._thread.is_alive():
            try:  # room for what it may be waiting to hand over
                self._made.get(timeout=0.01)
            except queue.Empty:
                continue

    def _make(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if self._stopped.is_set():
                    return
                self._made.put(item)
        except BaseException as raised:  # it belongs to whoever asks for the item
            error = raised
        self._made.put(_End(error))
