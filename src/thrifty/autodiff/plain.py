"""Reverse mode without checkpoints: torch.func's, plus a clear error for values that escape."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thrifty.autodiff.levels import mark_escaped

_TO_NUMBER = (Tensor.__float__, Tensor.__int__, Tensor.__complex__, Tensor.__index__)

_HERE = object()


class _Watch(TorchFunctionMode):
    """Keeps weak references to what the user's code makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TO_NUMBER:
            # Python's own control flow reads values; torch would warn that such a number carries no derivative.
            return func(args[0].detach())
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._keep(result)
        elif isinstance(result, (tuple, list)):
            for item in result:
                if isinstance(item, Tensor):
                    self._keep(item)
        return result

    def _keep(self, tensor: Tensor) -> None:
        self.made.append(weakref.ref(tensor))
        if len(self.made) & (len(self.made) - 1) == 0:  # at powers of two: linear in all
            self.made = [one for one in self.made if one() is not None]


class PlainRun:
    """One run of a function under torch.func.vjp; has the face of `checkpointed.CheckpointedRun`.

    Attributes:
        result: what `call` returned, cut loose from the derivative.
    """

    def __init__(self, call: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor]) -> None:
        watch = _Watch()
        returned: list[Tensor] = []
        escaping: list[weakref.ref[Tensor]] = []

        def run(*leaves: Tensor) -> tuple[tuple[Tensor, ...], Any]:
            # Aliases, so that the function may return an input itself or change it in place as it likes.
            with watch:
                result = call([leaf.view_as(leaf) for leaf in leaves])
            left = [reference() for reference in watch.made]
            escaping.extend(weakref.ref(one) for one in left if one is not None and one.requires_grad)
            tensors, spec = pytree.tree_flatten(result)
            self._spec, self._rest = spec, [_HERE if isinstance(one, Tensor) else one for one in tensors]
            wrapped = tuple(one for one in tensors if isinstance(one, Tensor))
            returned.extend(wrapped)
            self._differentiable = [one.is_floating_point() or one.is_complex() for one in wrapped]
            primary = tuple(one for one, yes in zip(wrapped, self._differentiable, strict=True) if yes)
            others = tuple(one for one, yes in zip(wrapped, self._differentiable, strict=True) if not yes)
            return primary, others

        found: Any = torch.func.vjp(run, *inputs, has_aux=True)
        primary, self._pull, others = found
        left = [reference() for reference in escaping]
        mark_escaped([tensor for tensor in left if tensor is not None], returned)
        floats, rest = iter(primary), iter(others)
        tensors = [next(floats) if yes else next(rest) for yes in self._differentiable]
        given = iter(tensors)
        leaves = [next(given) if one is _HERE else one for one in self._rest]
        self.result = pytree.tree_unflatten(leaves, self._spec)
        self._primary = primary

    def pull_back(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """Cotangents of the inputs, from those of the outputs."""
        given: dict[int, Tensor] = {}
        for output, cotangent in zip(outputs, cotangents, strict=True):
            given[id(output)] = given[id(output)] + cotangent if id(output) in given else cotangent
        full = tuple(given.get(id(one)) for one in self._primary)
        full = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(self._primary, full, strict=True))
        return list(self._pull(full))
