"""What an ordinary training step made, and how to make it again: contents of storages and the operations between them.

Used by `checkpointing`. A `Content` is what a storage held between two writes to it; views are places in it, so a view
costs nothing here and an in-place operation makes a new content from the old. A content that is not kept can be made
again from its operation's inputs, for as long as anything refers to it.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from thrifty.autodiff.cells import Place
from thrifty.autodiff.operations import Operation


class Content:
    """What a storage held between two writes.

    Attributes:
        node: the operation that made it; None for what the step found (parameters, data).
        place: how the tensor lay in the storage that showed it first.
        nbytes: of the storage.
        order: when it was made.
        kept: the tensor, while we hold it.
        storage: weak reference to the storage that holds it now, if any does.
        wanted: how many saved tensors of the autograd graph need it.
        handles: weak references to the handles of those.
        version: for what the step found, torch's count of writes when it was read.
    """

    __slots__ = ("__weakref__", "handles", "kept", "nbytes", "node", "order", "place", "storage", "version", "wanted")

    def __init__(self, node: Node | None, place: Place, nbytes: int, order: int) -> None:
        self.node, self.place, self.nbytes, self.order = node, place, nbytes, order
        self.kept: Tensor | None = None
        self.storage: weakref.ref[Any] | None = None
        self.wanted = 0
        self.handles: list[weakref.ref[Any]] = []
        self.version = 0


class Node:
    """An operation that ran.

    Attributes:
        operation: what ran. line: the user's line.
        arguments: as given, with a `Read` in place of each tensor.
        reads: the Reads among them, in order.
        makes: (position in the flat result, content) of what it made; position -1 - i for what it wrote to read i.
        cost_s: estimated seconds to run it again.
        random: (generator, state) before it ran, or None.
        replayable: False where it wrote to something that is not recorded.
    """

    __slots__ = ("arguments", "cost_s", "keywords", "line", "makes", "operation", "random", "reads", "replayable")

    def __init__(self, operation: Operation, arguments: Any, keywords: Any, reads: list[Read], line: str) -> None:
        self.operation, self.arguments, self.keywords, self.reads = operation, arguments, keywords, reads
        self.line = line
        self.makes: list[tuple[int, weakref.ref[Content]]] = []
        self.cost_s = 0.0
        self.random: tuple[Any, Any] | None = None
        self.replayable = True


class Read:
    """A tensor argument: a place in a content; `copy` is a private copy of what the operation overwrote, or None."""

    __slots__ = ("content", "copy", "place")

    def __init__(self, content: Content, place: Place) -> None:
        self.content, self.place = content, place
        self.copy: Tensor | None = None
