"""Where steps of a record end, and the state of the generators that the run draws from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.marks import Keeping
from thrifty.autodiff.snapshot import generator_of

WINDOW = 64
LONG_STEP = 16


class Stepping(Keeping):
    """Ends steps and notes random states; a part of the Recorder.

    A step ends before an operation at which no more bytes are alive than at any of the last `WINDOW` ones: at the turn
    of a loop rather than in its middle. A long step ends where few are alive beside what it has made.

    Attributes:
        on_cut: called at the end of every step with this recorder; takes marks.
        largest_step_bytes: most bytes made in a step.
    """

    def __init__(self, on_cut: Callable[[Any], None]) -> None:
        super().__init__()
        self.on_cut = on_cut
        self.largest_step_bytes = 0
        self._step_ops = 0
        self._floor = self._floor_before = 1 << 62  # fewest bytes in this window, and in the one before
        self._window = 0
        self._generator: Any = None

    def _watch_step(self) -> None:
        """End the step here if few bytes are alive. Called where the step has operations."""
        live = self.live_bytes
        low = live <= self._floor
        if low:
            self._floor = live
            low = live <= self._floor_before
        if low or (self._step_ops >= LONG_STEP and self._few(live)):
            self._step_ops = 0
            self.program.cut()
            if self.made_bytes > self.largest_step_bytes:
                self.largest_step_bytes = self.made_bytes
            self.made_bytes = 0
            self.on_cut(self)
        self._window += 1
        if self._window >= WINDOW:
            self._floor_before, self._floor, self._window = self._floor, live, 0

    def _few(self, live: int) -> bool:
        """Are so few bytes alive that a long step may end?

        Few beside what it made, and, unless it is very long, beside the fewest of late.
        """
        if 3 * live > self.made_bytes:
            return False
        return self._step_ops >= 3 * LONG_STEP or live <= 8 * min(self._floor, self._floor_before)

    def close(self) -> None:
        """End the record."""
        self._bury()
        self.program.close()
        self.largest_step_bytes = max(self.largest_step_bytes, self.made_bytes)

    # -- random numbers ------------------------------------------------------------------------------------------

    def _before_random(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        values = [*args, *kwargs.values()]
        given = next((value for value in values if isinstance(value, torch.Generator)), None)
        tensors = [value for value in values if isinstance(value, Tensor)]
        device = tensors[0].device if tensors else torch.device(kwargs.get("device") or "cpu")
        self._generator = generator_of(device, given)
        state = self._generator.get_state()
        last = self._random.get(self._generator)
        if last is None or not _same_state(last, state):
            self.program.set_random(self._generator, state)

    def _after_random(self) -> None:
        self._random[self._generator] = self._generator.get_state()

    def generators(self) -> list[Any]:
        """Generators that the run drew from."""
        return list(self._random)


def _same_state(one: Tensor, other: Tensor) -> bool:
    return bool(one.numpy().tobytes() == other.numpy().tobytes())
