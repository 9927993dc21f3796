"""What the kinds of derivative level share: how many are open, inputs of their own storage, values that escape."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from thrifty.autodiff.context import library_code
from thrifty.autodiff.errors import EscapedValueError


class _Open(threading.local):
    count = 0


_open = _Open()


def open_levels() -> int:
    """How many levels below torch.func (recorders and forward levels) are open in this thread."""
    return _open.count


@contextmanager
def level_open() -> Iterator[None]:
    """Count one more level while open."""
    _open.count += 1
    try:
        yield
    finally:
        _open.count -= 1


def inside_functorch() -> bool:
    """True inside a transform of torch.func: there, derivatives must be torch.func's own."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def fresh_input(tensor: Tensor) -> Tensor:
    """The same values under a storage of their own, so that the input is not taken for what a closure holds of it.

    At the outermost level no memory is copied; deeper, a copy is made for the outer levels to follow.
    """
    with library_code():
        plain = tensor.detach()
        if open_levels() == 0 and plain.layout == torch.strided and not (plain.is_conj() or plain.is_neg()):
            try:
                return torch.from_dlpack(plain)
            except (RuntimeError, TypeError, BufferError):
                pass
        return plain.clone()


class EscapedTensor(Tensor):
    """What a value becomes that is still held when the derivative call it depends on has ended: every use raises."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Raise EscapedValueError."""
        raise EscapedValueError(
            "this tensor depends on the input of a derivative call that has ended: return it from the function "
            "(has_aux=True), or keep value.detach()"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return "EscapedTensor(its derivative call has ended)"


def mark_escaped(tensors: Iterable[Tensor], results: Iterable[Any]) -> None:
    """Make these tensors unusable, those among `results` excepted."""
    kept = {id(result) for result in results}
    for tensor in tensors:
        if type(tensor) is Tensor and id(tensor) not in kept:
            tensor.__class__ = EscapedTensor
