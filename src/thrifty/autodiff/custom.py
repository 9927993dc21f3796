"""`torch.autograd.Function`s under derivative levels: one operation of the record each, with its own backward.

A level sees the operations inside a Function's forward, which say nothing of its backward (a straight-through rounding
has another derivative than `round`). So while a level is open, `apply` is taken whole: the record notes the call, and a
replay calls `apply` again. Two levels at once, and forward mode, would need rules that a Function does not give.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily

from thrifty.autodiff.errors import ReplayError
from thrifty.autodiff.levels import open_levels
from thrifty.autodiff.operations import Operation, user_line

_apply = torch.autograd.Function.__dict__["apply"]
_lock = threading.Lock()
_users = 0


class _Schema:
    arguments = returns = ()

    def __init__(self, name: str) -> None:
        self.name = name


class _Call:
    """The `apply` of a Function in the shape of an operator."""

    tags = ()

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self._function = function
        self._schema = _Schema(f"{function.__name__}.apply")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function.apply(*args, **kwargs)


_known: dict[type[torch.autograd.Function], Operation] = {}


def _operation(function: type[torch.autograd.Function]) -> Operation:
    if function not in _known:
        _known[function] = Operation(_Call(function))
        _known[function].silent = False
    return _known[function]


def _original(function: Any, args: Any, kwargs: Any) -> Any:
    return _apply.__get__(None, function)(*args, **kwargs)


def _applied(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What `apply` does while some level is open somewhere."""
    from thrifty.autodiff.recorder import Recorder

    own = function.__module__.partition(".")[0] == "torch" or getattr(function, "is_registered_op", False)
    if open_levels() == 0 or own:  # below those lie registered ops, whose rules every level finds
        return _original(function, args, kwargs)
    mode = _get_current_dispatch_mode()
    if open_levels() > 1 or not isinstance(mode, Recorder):
        raise ReplayError(
            f"{function.__name__} is a torch.autograd.Function, which says nothing of its derivatives in forward mode "
            "or under two levels: write it with torch operations, or register it with torch.library.custom_op "
            f"({user_line()})"
        )
    if any(callable(one) and not isinstance(one, Tensor) for one in (*args, *kwargs.values())):
        raise ReplayError(
            f"{function.__name__} is given a function, whose state a replay would not find as it was: give it tensors "
            f"({user_line()})"
        )
    before = torch.default_generator.get_state()
    with _pop_mode_temporarily():
        result = _original(function, args, kwargs)
    if not torch.equal(before, torch.default_generator.get_state()):
        raise ReplayError(
            f"{function.__name__} draws random numbers, so it cannot be replayed: draw them outside and give them to "
            f"it ({user_line()})"
        )
    outputs = (result,) if isinstance(result, Tensor) else tuple(result)
    given = {id(one.untyped_storage()) for one in (*args, *kwargs.values()) if isinstance(one, Tensor)}
    for output in outputs:
        if isinstance(output, Tensor) and id(output.untyped_storage()) in given:
            raise ReplayError(
                f"{function.__name__} gives back the memory of an argument, so it cannot be replayed: return a clone "
                f"({user_line()})"
            )
    mode.note_call(_operation(function), args, kwargs, outputs)
    return result


@contextmanager
def functions_taken_whole() -> Iterator[None]:
    """While open in any thread, `torch.autograd.Function.apply` knows of derivative levels."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            torch.autograd.Function.apply = classmethod(_applied)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                torch.autograd.Function.apply = _apply  # type: ignore[method-assign]
