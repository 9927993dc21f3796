"""Cells: what the recorder knows of a storage, and where in it tensors lie.

A storage is known by its Python object, which lives as long as anything refers to the storage. A cell refers to it
weakly and so learns of its death, until a snapshot holds it; then the deaths of the tensor objects tell when to look.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Place = tuple[Any, ...]


class Sight(weakref.ref[Any]):
    """A weak reference to a tensor object.

    Attributes:
        key: of the cell that it was seen on. of: id of the object. register: what it is known by.
    """

    __slots__ = ("key", "of", "register")
    key: int
    of: int
    register: int


class Cell(weakref.ref[Any]):
    """A storage in the record, and a weak reference to it.

    Attributes:
        key: id of the storage's Python object.
        base: register of the tensor that the storage was first seen by; place where that lies.
        seen: weak reference to that tensor.
        nbytes: of the storage.
        active: depends on the differentiated inputs.
        external: found by the run, not made by it.
        since: how many snapshots there were when the present content was made; -1 for what was found.
        storage: held here once a snapshot holds the content.
        copy: of the content, the tensor that holds it, where the cell is a snapshot's own.
        sights: id of a tensor object -> Sight, for those seen later; and for the first once a snapshot holds it.
        places: place -> (register, step at which it was met), or None while there is the base alone. A second register
            at a place has its number after the place.
    """

    __slots__ = (
        "active", "base", "copy", "external", "key", "nbytes", "place", "places", "seen", "sights", "since", "storage",
    )  # fmt: skip
    key: int
    base: int
    place: Place
    seen: weakref.ref[Any]
    nbytes: int
    active: bool
    external: bool
    since: int
    storage: Any
    copy: Tensor | None
    sights: dict[int, Sight] | None
    places: dict[Place, tuple[int, int]] | None

    def registers(self) -> Iterator[tuple[Place, int, int]]:
        """(place, register, step at which it was met) of each."""
        if self.places is None:
            yield self.place, self.base, -1
        else:
            for place, (register, step) in self.places.items():
                yield place[:6], register, step

    def tensor(self, register: int) -> Tensor | None:
        """A tensor object of this register that is alive, or None."""
        found: Tensor | None = self.seen() if register == self.base else None
        if found is None and self.sights:
            for sight in self.sights.values():
                if sight.register == register:
                    found = found if found is not None else sight()
        return found

    def tensors(self) -> list[Tensor]:
        """All tensor objects of it that are known and alive."""
        found = [self.seen(), *(sight() for sight in (self.sights or {}).values())]
        return [tensor for tensor in found if tensor is not None]

    def only_held(self) -> bool:
        """True if no tensor has the storage, and no Python object but this one refers to it."""
        storage = self.storage
        # The storage's Python object counts for one of its users; this cell, the name here and the call for three.
        return bool(torch._C._storage_Use_Count(storage._cdata) <= 1) and sys.getrefcount(storage) <= 3


def place_of(tensor: Tensor) -> Place:
    """Where in its storage a tensor lies, and how its bytes are read."""
    return (
        tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip


def tensor_on(storage: Any, place: Place) -> Tensor:
    """A tensor at a place in a storage, unseen by the modes."""
    size, stride, offset, dtype, conj, neg = place
    with _disable_current_modes():
        tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, size, stride)
        tensor = torch._conj(tensor) if conj else tensor
        return torch._neg_view(tensor) if neg else tensor
