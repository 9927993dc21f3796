"""Bytes that a call is going to make, worked out by torch from its shapes, so that room can be made before it runs.

The operator runs once on tensors without memory (device `meta`) for each combination of shapes. Where it cannot, for
its shapes depend on values or nobody told torch about them, the largest tensor that it is given is the guess.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from thrifty.autodiff.operations import Operation, flat_outputs

_MOST = 20_000  # combinations remembered
_known: dict[Any, int] = {}


def result_bytes(op: Operation, args: Any, kwargs: Any) -> int:
    """Bytes of the storages that this call would make."""
    if op.views:
        return 0
    try:
        key = op.number, _key(args), _key(tuple((kwargs or {}).items()))
        found = _known.get(key)
    except (TypeError, RuntimeError):  # an argument that is no key; a tensor without strides
        return _evaluate(op, args, kwargs or {})
    if found is None:
        if len(_known) >= _MOST:
            _known.clear()
        found = _known[key] = _evaluate(op, args, kwargs or {})
    return found


def _key(values: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append((value.shape, value.stride(), value.dtype))
        elif isinstance(value, (list, tuple)):
            found.append(_key(value))
        elif isinstance(value, torch.Generator):
            found.append(None)
        else:
            found.append(value)
    return tuple(found)


def _evaluate(op: Operation, args: Any, kwargs: dict[str, Any]) -> int:
    given: set[int] = set()
    largest = [0]
    # Somebody's own code must not run twice: only what was registered for the purpose may stand in for it.
    able = not op.checked or torch._C._dispatch_has_kernel_for_dispatch_key(op.name_of(op.function), "Meta")

    def bare(value: Any) -> Any:
        if isinstance(value, Tensor):
            largest[0] = max(largest[0], value.numel() * value.element_size())
            empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            given.add(empty.untyped_storage()._cdata)
            return empty
        if isinstance(value, (list, tuple)):
            return [bare(item) for item in value]
        if isinstance(value, torch.Generator):
            return None
        return torch.device("meta") if isinstance(value, torch.device) else value

    try:
        with _disable_current_modes(), torch.no_grad():
            positional, named = [bare(one) for one in args], {name: bare(one) for name, one in kwargs.items()}
            if not able:
                return largest[0]
            outputs = flat_outputs(op.function(*positional, **named))
            storages = [one.untyped_storage() for one in outputs if isinstance(one, Tensor)]
        made = {storage._cdata: storage.nbytes() for storage in storages}
    except Exception:  # whatever an operator raises where it cannot run without values
        return largest[0]
    return sum(nbytes for storage, nbytes in made.items() if storage not in given)
