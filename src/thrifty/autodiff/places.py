"""Places in storages: which have elements in common, which an operation writes to, and tensors at them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from thrifty.autodiff.cells import Place, tensor_on
from thrifty.autodiff.operations import Operation
from thrifty.autodiff.values import Node, Read


@functools.lru_cache(maxsize=4096)
def disjoint(one: Place, other: Place, nbytes: int) -> bool:
    """True if the two places in a storage of so many bytes have no element in common."""
    if one[3] != other[3]:
        return False
    with _disable_current_modes(), torch.no_grad():
        marks = torch.zeros(nbytes // one[3].itemsize, dtype=torch.bool)
        marks.as_strided(*one[:3]).fill_(True)
        return not bool(marks.as_strided(*other[:3]).any())


def is_read(value: Any) -> bool:
    """True for a Read, which a tree of arguments holds as a leaf."""
    return isinstance(value, Read)


def written_reads(node: Node) -> list[Read]:
    """The Reads that the operation writes to."""
    op: Operation = node.operation
    if not op.changes:
        return []
    if node.flat is not None:
        return [node.arguments[at] for at in op.writes if at in node.flat]
    found = [node.arguments[at] for at in op.writes if at < len(node.arguments)]
    found += [node.keywords[name] for name in op.writes_by_name if name in node.keywords]
    return [one for one in pytree.tree_leaves(found, is_leaf=is_read) if isinstance(one, Read)]


def at_place(base: Tensor, place: Place) -> Tensor:
    """The place in the storage of `base`."""
    size, stride, offset, dtype, conj, neg = place
    if conj or neg or dtype != base.dtype or base.is_conj():
        return tensor_on(base.untyped_storage(), place)
    return base.as_strided(size, stride, offset)


def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole storage of a tensor, as a tensor that lies in it likewise."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    copy = tensor.as_strided((count,), (1,), 0).clone()
    return copy.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def written_tensors(op: Operation, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that a call writes to."""
    found = [args[at] for at in op.writes if at < len(args)]
    found += [kwargs[name] for name in op.writes_by_name if kwargs and name in kwargs]
    for one in found:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from (item for item in one if isinstance(item, Tensor))
