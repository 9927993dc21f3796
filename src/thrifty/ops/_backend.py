"""Which implementation an op runs: the native kernels, or the readable torch reference.

`auto` takes native where it is built and the tensors are float32 on the CPU; `reference` never does, and is what every
other implementation is judged against.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from thrifty._load_native import native

BACKENDS = ("auto", "native", "reference")
_backend: ContextVar[str] = ContextVar("thrifty_backend", default="auto")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on one implementation: `auto`, `native` or `reference`.

    Raises ValueError for another name, RuntimeError for `native` where it is not built.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "native" and native is None:
        raise RuntimeError("the native kernels are not built here: see `thrifty doctor`, or choose backend 'auto'")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def use_native(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether an op on these floating-point tensors runs natively; `dtype` is what its kernel takes."""
    if native is None or _backend.get() == "reference":
        return False
    return all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)


def exporting() -> bool:
    """Whether torch.export is tracing: its tensors hold no numbers, so nothing can be found in them."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()
