"""Counts operations, and tensors and bytes that are alive, below everything else: the yardstick of the benchmarks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thrifty.autodiff.operations import flat_outputs


class LiveMeter(TorchDispatchMode):
    """While open, counts what runs in this thread. Open it outside of what it is to measure.

    Args:
        least_bytes: storages smaller than this are not counted as tensors.

    Attributes:
        operations: dispatched operations that yield or change tensors.
        tensors, peak_tensors: storages made since it opened and still alive: now, and at most.
        live_bytes, peak_bytes: their bytes.
    """

    def __init__(self, least_bytes: int = 1) -> None:
        super().__init__()
        self.least_bytes = least_bytes
        self.operations = self.tensors = self.peak_tensors = self.live_bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in args if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        made = False
        for tensor in flat_outputs(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = id(storage)
            if key in given or key in self._known:
                continue
            made = True
            nbytes = storage.nbytes()
            if nbytes < self.least_bytes:
                continue
            self._known[key] = weakref.ref(storage, self._farewell(key, nbytes))
            self.tensors += 1
            self.live_bytes += nbytes
            self.peak_tensors = max(self.peak_tensors, self.tensors)
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.operations += made
        return result

    def _farewell(self, key: int, nbytes: int) -> Callable[[Any], None]:
        return lambda _: self._gone(key, nbytes)

    def _gone(self, key: int, nbytes: int) -> None:
        self._known.pop(key, None)
        self.tensors -= 1
        self.live_bytes -= nbytes
