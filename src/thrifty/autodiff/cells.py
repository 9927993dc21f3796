"""Storages as the record knows them, and the places in them that tensors cover."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Place = tuple[Any, ...]


class Death(weakref.ref[Any]):
    """A weak reference that says whose death it tells."""

    __slots__ = ("key",)
    key: int


class Cell:
    """A storage in the record.

    Attributes:
        base: register of the tensor that the storage was first seen by.
        places: place -> register.
        tensors: register -> weak reference to the tensor object.
        active: depends on the differentiated inputs.
        external: found by the run, not made by it.
        held: a snapshot may hold the present content.
        kept: register -> weak reference to the alias that snapshots hold.
        watch: tells when a tensor object dies whose storage snapshots hold too.
    """

    __slots__ = ("active", "base", "death", "external", "held", "kept", "nbytes", "places", "tensors", "watch")

    def __init__(self, death: Death, base: int, tensor: Tensor, nbytes: int, active: bool, external: bool) -> None:
        self.death, self.base, self.nbytes, self.active, self.external = death, base, nbytes, active, external
        self.places = {place_of(tensor): base}
        self.tensors = {base: weakref.ref(tensor)}
        self.held = external
        self.kept: dict[int, weakref.ref[Tensor]] = {}
        self.watch: Death | None = None


def place_of(tensor: Tensor) -> Place:
    """Where in its storage a tensor lies, and how its bytes are read."""
    return (
        tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip


def only_snapshots(cell: Cell) -> bool:
    """True if no tensor but the snapshots' aliases shares the storage; its Python object counts for one."""
    storage = cell.death()
    if storage is None:
        return True
    ours = sum(reference() is not None for reference in cell.kept.values())
    return bool(torch._C._storage_Use_Count(storage._cdata) <= ours + 1)


def tensor_on(storage: Any, place: Place) -> Tensor:
    """A tensor at a place in a storage, unseen by the modes."""
    size, stride, offset, dtype, conj, neg = place
    with _disable_current_modes():
        tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)
        tensor = torch._conj(tensor) if conj else tensor
        return torch._neg_view(tensor) if neg else tensor
