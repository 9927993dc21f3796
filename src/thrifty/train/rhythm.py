"""When a checkpoint inside an epoch is due."""

import time

_EVERY_S = 30.0
_SHARE = 0.05


class Rhythm:
    """When the next checkpoint inside an epoch is due: every so many steps, or about every 30 s.

    By the clock, checkpoints wait until they have cost no more than a twentieth of the time, however large the model.
    """

    def __init__(self, every_steps: int | None) -> None:
        self._every_steps = every_steps
        self._wait_s = _EVERY_S
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after training step `step` (counted from 1)."""
        if self._every_steps is not None:
            return step % self._every_steps == 0
        return time.monotonic() - self._last >= self._wait_s

    def saved(self, seconds: float) -> None:
        """Take notice that a checkpoint was written in `seconds`."""
        self._wait_s = max(_EVERY_S, seconds / _SHARE)
        self._last = time.monotonic()
