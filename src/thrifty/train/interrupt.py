"""Ctrl-C and termination as a wish that is granted between two steps, where the state of training is whole."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Training was asked to stop; the checkpoint is written."""


class InterruptWatch:
    """Within `with`, remembers the first signal; a second one interrupts at once, as Python does by itself."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "InterruptWatch":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
