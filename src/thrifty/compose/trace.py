"""A history of observations that stays small however long a training runs.

Every step's rows form a frame. When there are too many frames, every second one goes and only every second new one is
taken from then on, so what is kept is always spread evenly over the steps so far.
"""

from typing import Any

Frame = list[dict[str, Any]]

FRAMES = 1024
"""Frames kept at most."""


class Trace:
    """Evenly thinned frames of rows; rows are plain data."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all frames and take every frame again."""
        self._frames: list[Frame] = []
        self._seen = 0
        self._every = 1

    def add(self, frame: Frame) -> None:
        """Take notice of the rows of one step; an empty frame does not count."""
        if not frame:
            return
        if self._seen % self._every == 0:
            self._frames.append(frame)
        self._seen += 1
        if len(self._frames) > FRAMES:
            self._frames = self._frames[::2]
            self._every *= 2

    def rows(self) -> list[dict[str, Any]]:
        """Return copies of all rows kept, in the order of their steps."""
        return [dict(row) for frame in self._frames for row in frame]

    def state_dict(self) -> dict[str, Any]:
        """Return the frames and how they are thinned as plain data."""
        frames = [[dict(row) for row in frame] for frame in self._frames]
        return {"frames": frames, "seen": self._seen, "every": self._every}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Trace":
        """Build a trace from what `state_dict` returned; KeyError, TypeError or ValueError when it is damaged."""
        trace = cls()
        trace._frames = [[dict(row) for row in frame] for frame in state["frames"]]
        trace._seen, trace._every = int(state["seen"]), int(state["every"])
        return trace
