"""Seconds by stage, so that a layer can tell where its time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages(dict[str, float]):
    """Seconds spent by stage since it was last cleared; forward passes and what is done before them."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self[stage] = self.get(stage, 0.0) + time.perf_counter() - start
