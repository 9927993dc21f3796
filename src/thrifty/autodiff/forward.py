"""Forward mode below torch.func: every operation that runs also pushes its tangents forward.

A tangent belongs to a storage, so views and in-place writes carry theirs without special cases; each call has a table
of its own, so two nested calls cannot take each other's perturbations for their own. The rule of an operation is
torch's forward-mode rule, applied to plain tensors inside the handler; its own operations are seen by the levels
outside, which is how the modes nest in any order.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from thrifty.autodiff.cells import Place, place_of
from thrifty.autodiff.context import derivatives_stop, in_library_code, library_code
from thrifty.autodiff.custom import functions_taken_whole
from thrifty.autodiff.levels import fresh_input, level_open, mark_escaped, open_levels
from thrifty.autodiff.operations import operation
from thrifty.autodiff.substitutes import SUBSTITUTES


class _Death(weakref.ref[Any]):
    __slots__ = ("key",)
    key: int


class _Tangent:
    """The tangent of a storage: as a tensor at one place, and as a whole once a second place is asked for."""

    __slots__ = ("death", "flat", "place", "tensors", "value")

    def __init__(self, death: _Death, place: Place, value: Tensor) -> None:
        self.death, self.place, self.value = death, place, value
        self.flat: Tensor | None = None
        self.tensors: list[weakref.ref[Tensor]] = []


class ForwardLevel(TorchDispatchMode):
    """Carries tangents along while it is open."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the handler, at two microseconds a call

    def __init__(self) -> None:
        super().__init__()
        self._tangents: dict[int, _Tangent] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operation(func)
        if op.silent or (op.is_detach and in_library_code()):
            return func(*args, **kwargs)
        flat, spec = pytree.tree_flatten((args, kwargs))
        active = [isinstance(one, Tensor) and id(one.untyped_storage()) in self._tangents for one in flat]
        if not any(active):
            return func(*args, **kwargs)
        if op.is_detach:
            return args[0].clone()
        if derivatives_stop():
            return func(*args, **kwargs)
        return self._push(op, flat, spec, active)

    def _push(self, op: Any, flat: list[Any], spec: Any, active: list[bool]) -> Any:
        written = _written_tensors(op, *pytree.tree_unflatten(flat, spec))
        originals: dict[int, Tensor] = {}
        given: list[Any] = []
        with _autograd_here(), torch.enable_grad(), library_code(), dual_level():
            for one, carries in zip(flat, active, strict=True):
                if isinstance(one, Tensor):
                    own = one.detach()
                    if carries:
                        tangent = self.tangent(one)
                        assert tangent is not None
                        # Rules of in-place operations write to the tangent they are given.
                        own = fwad.make_dual(own, tangent.clone() if id(one) in written else tangent)
                    originals[id(own)] = one
                    given.append(own)
                else:
                    given.append(one)
            args, kwargs = pytree.tree_unflatten(given, spec)
            function = SUBSTITUTES.get(op.name, op.function) if open_levels() > 1 else op.function
            result = function(*args, **kwargs)
            for own in given:
                if isinstance(own, Tensor) and id(originals[id(own)]) in written:
                    tangent = fwad.unpack_dual(own).tangent
                    if tangent is not None:
                        self._overwrite(originals[id(own)], tangent)
            leaves, result_spec = pytree.tree_flatten(result)
            duals = [self._parts(leaf, originals) for leaf in leaves]
        # Tensors made under reentrant dispatch must not leave the handler: aliases of them do.
        with library_code():
            outputs = [self._output(leaf, *parts) for leaf, parts in zip(leaves, duals, strict=True)]
        return pytree.tree_unflatten(outputs, result_spec)

    def _parts(self, leaf: Any, originals: dict[int, Tensor]) -> tuple[Any, Tensor | None]:
        """(original argument or primal, tangent) of a result."""
        if not isinstance(leaf, Tensor) or id(leaf) in originals:
            return originals.get(id(leaf)), None
        if not (leaf.is_floating_point() or leaf.is_complex()):
            return None, None
        return None, fwad.unpack_dual(leaf).tangent

    def _output(self, leaf: Any, original: Tensor | None, tangent: Tensor | None) -> Any:
        if original is not None or not isinstance(leaf, Tensor):
            return leaf if original is None else original
        own = leaf.detach()
        if tangent is not None and id(own.untyped_storage()) not in self._tangents:
            self.start(own, tangent)
        return own

    def start(self, tensor: Tensor, tangent: Tensor) -> None:
        """Give a storage that is new here its tangent."""
        storage = tensor.untyped_storage()
        death = _Death(storage, self._bury)
        death.key = id(storage)
        entry = self._tangents[death.key] = _Tangent(death, place_of(tensor), tangent)
        entry.tensors.append(weakref.ref(tensor))

    def _bury(self, death: _Death) -> None:
        entry = self._tangents.get(death.key)
        if entry is not None and entry.death is death:
            del self._tangents[death.key]

    def tangent(self, tensor: Tensor) -> Tensor | None:
        """The tangent of a tensor, or None where it has none."""
        entry = self._tangents.get(id(tensor.untyped_storage()))
        if entry is None:
            return None
        if entry.place == place_of(tensor):
            return entry.value
        flat = self._flat(entry, tensor)
        view = flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        view = view.conj() if tensor.is_conj() else view
        return torch._neg_view(view) if tensor.is_neg() else view

    def _flat(self, entry: _Tangent, tensor: Tensor) -> Tensor:
        if entry.flat is None:
            size, stride, offset, dtype, conj, neg = entry.place
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            flat = torch.zeros(count, dtype=dtype, device=tensor.device)
            place = flat.as_strided(size, stride, offset)
            value = entry.value.conj() if conj else entry.value
            place.copy_(-value if neg else value)
            entry.flat = flat
            entry.value = place if not (conj or neg) else entry.value
        return entry.flat

    def _overwrite(self, tensor: Tensor, tangent: Tensor) -> None:
        """The operation wrote to this tensor: so does its tangent."""
        entry = self._tangents.get(id(tensor.untyped_storage()))
        if entry is None:
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            whole = torch.zeros(count, dtype=tensor.dtype, device=tensor.device)
            base = tensor.as_strided((count,), (1,), 0).detach()
            self.start(base, whole)
            entry = self._tangents[id(tensor.untyped_storage())]
            entry.flat = whole
        if entry.flat is None and entry.place == place_of(tensor):
            entry.value = tangent
            return
        self._flat(entry, tensor)
        place = self.tangent(tensor)
        assert place is not None
        place.copy_(tangent)

    def mark_escaped(self, results: Sequence[Any]) -> None:
        """Mark values that depend on the inputs and are still held, the results excepted."""
        entries = list(self._tangents.values())
        alive = [reference() for entry in entries for reference in entry.tensors]
        mark_escaped([tensor for tensor in alive if tensor is not None], results)
        self._tangents.clear()


def _written_tensors(op: Any, args: Any, kwargs: Any) -> set[int]:
    found = [args[at] for at in op.writes if at < len(args)]
    found += [kwargs[name] for name in op.writes_by_name if name in kwargs]
    return {id(one) for one in pytree.tree_leaves(found) if isinstance(one, Tensor)}


_RULES = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView", "Conjugate",
                 "Negative", "ZeroTensor")
)  # fmt: skip


def _autograd_here() -> Any:
    """Let torch's derivative rules work inside a mode's handler, for the modes outside to see."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in _RULES:
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


@contextmanager
def dual_level() -> Iterator[None]:
    """torch keeps one level of dual numbers at a time; ours share it, for they only put fresh aliases there."""
    _load_rules()
    if fwad._current_level >= 0:
        yield
    else:
        with fwad.dual_level():
            yield


@functools.cache
def _load_rules() -> None:
    # torch scripts some of its forward rules when they are first needed, and warns of its own scripting.
    with warnings.catch_warnings(), _disable_current_modes():
        warnings.simplefilter("ignore", DeprecationWarning)
        fwad._maybe_load_decompositions()


def push_forward(
    call: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Any, Callable[[Tensor], Tensor | None]]:
    """Run `call` on the inputs with these tangents.

    Returns:
        its result, and a function from a tensor of the result to its tangent, None where it does not depend.
    """
    level = ForwardLevel()
    own = [fresh_input(tensor) for tensor in inputs]
    for tensor, tangent in zip(own, tangents, strict=True):
        with library_code():
            level.start(tensor, tangent.detach())
    with functions_taken_whole(), level_open(), level, torch.enable_grad():
        result = call(own)
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    with library_code():
        found = {id(leaf): level.tangent(leaf) for leaf in leaves}
    level.mark_escaped([*leaves, *own])
    return result, lambda tensor: found.get(id(tensor))
