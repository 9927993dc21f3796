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


class Tie(weakref.ref[Any]):
    """A weak reference to a storage, with what is known of it.

    Attributes:
        key: id of the storage.
        nbytes: that count against the limit: 0 for what the step found.
        gradient: backward made it.
        content: what it holds now; None for gradients, a weak reference for what the step found.
    """

    __slots__ = ("content", "gradient", "key", "nbytes")
    key: int
    nbytes: int
    gradient: bool
    content: Content | weakref.ref[Content] | None


class Content:
    """What a storage held between two writes.

    Attributes:
        node: the operation that made it; None for what the step found (parameters, data).
        nbytes: of the storage.
        index: which one of the step's contents it is, in the order of their making; -1 for what the step found.
        place: how the tensor that showed it first lay in the storage; `seen` is a weak reference to that tensor.
        kept: the tensor, while we hold it; kept_place where that lies.
        tie: to the storage that held it first.
        wanted: how many saved tensors of the autograd graph need it.
        handles: weak references to the handles of those.
        version: for what the step found, torch's count of writes when it was read.
        places: for what the step made without being noted, where it is read or saved; None for all else.
    """

    __slots__ = (
        "__weakref__", "handles", "index", "kept", "kept_place", "nbytes", "node", "place", "places", "seen", "tie",
        "version", "wanted",
    )  # fmt: skip

    def __init__(self, node: Node | None, index: int, nbytes: int, tie: Tie, place: Place) -> None:
        self.node, self.index, self.nbytes, self.tie = node, index, nbytes, tie
        self.place = self.kept_place = place
        self.seen: weakref.ref[Tensor] | None = None
        self.kept: Tensor | None = None
        self.wanted = self.version = 0
        self.handles: list[weakref.ref[Any]] = []
        self.places: list[Place] | None = None


class Node:
    """An operation that ran.

    Attributes:
        operation: what ran. line: the user's line, where a message may need it.
        order: the number of operations before it in its step.
        arguments: as given, with a `Read` in place of each tensor.
        reads: the Reads among them, in order.
        flat: positions of the Reads among the arguments where all lie there; None where some lie deeper.
        makes: (position in the flat result, content) of what it made; position -1 - i for what it wrote to read i.
        cost_s: seconds that it took.
        random: (generator, state) before it ran, or None.
        replayable: False where it wrote to something that is not recorded.
    """

    __slots__ = (
        "arguments", "cost_s", "flat", "keywords", "line", "makes", "operation", "order", "random", "reads",
        "replayable",
    )  # fmt: skip

    def __init__(
        self, operation: Operation, order: int, arguments: Any, keywords: Any, reads: list[Read],
        flat: list[int] | None,
    ) -> None:  # fmt: skip
        self.operation, self.order, self.reads, self.flat = operation, order, reads, flat
        self.arguments, self.keywords = arguments, keywords
        self.line = ""
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
