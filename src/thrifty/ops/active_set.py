"""active_set: the classes that a batch computes, as a head that it must have and a tail that stands for the rest.

Every visit of a class by a row's bucket is a vote. The head is the `limit` most voted classes and all forced ones (the
labels); the tail is drawn uniformly, without replacement, from all other classes. With the tail's terms weighted by
(N - |head|) / |tail| every sum over the classes is estimated without bias, whatever the tables found: the better the
head, the smaller the variance.
Source of the estimator: Rastogi & Van Durme, 2015; Mussmann & Ermon, ICML 2016 (top by search, rest by sampling).
SLIDE and its successors let the rest out, so that the normaliser is too small by what was not found.
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._mix import MASK, draw_below, mix


class ActiveSet(NamedTuple):
    """Chosen classes, ascending.

    ids: int64 (A,). drawn: bool (A,), whether of the tail. head, tail: how many of each.
    """

    ids: Tensor
    drawn: Tensor
    head: int
    tail: int


def reference(
    codes_RTP: Tensor, slots: Tensor, sizes: Tensor, classes: int, forced: Tensor, limit: int, tail: int, seed: int
) -> ActiveSet:
    """The same classes as the native version, step by step."""
    votes: Counter[int] = Counter()
    if limit > 0:
        for row in codes_RTP.tolist():
            for t, probes in enumerate(row):
                for code in probes:
                    votes.update(slots[t, code, : int(sizes[t, code])].tolist())
    touched = list(votes)  # in the order in which they were met
    start = draw_below(mix(seed), len(touched)) if touched else 0
    turned = touched[start:] + touched[:start]
    head = set(sorted(turned, key=lambda id_: -votes[id_])[:limit])  # the sort is stable
    head.update(forced.tolist())
    drawn: set[int] = set()
    if tail >= classes - len(head):
        drawn = set(range(classes)) - head
    counter = mix(seed ^ 0x7461696C)
    while len(drawn) < tail and len(head) + len(drawn) < classes:
        id_ = draw_below(mix(counter), classes)
        counter = (counter + 1) & MASK
        if id_ not in head:
            drawn.add(id_)
    ids = sorted(head | drawn)
    flags = torch.tensor([id_ in drawn for id_ in ids], dtype=torch.bool)
    return ActiveSet(torch.tensor(ids, dtype=torch.int64), flags, len(head), len(drawn))


def active_set(
    codes_RTP: Tensor,
    slots: Tensor,
    sizes: Tensor,
    classes: int,
    forced: Tensor,
    limit: int,
    tail: int,
    seed: int,
    votes: Tensor | None = None,
) -> ActiveSet:
    """The head and tail of a batch.

    Args:
        codes_RTP: int32 (R, T, P), the buckets that each row looks into.
        slots, sizes: the tables; see `table_update`.
        classes: N.
        forced: int64, classes that are always of the head; repeated ones count once.
        limit: classes taken from the buckets at most.
        tail: classes drawn from the rest; all of the rest where it has no more.
        seed: in [0, 2^63); the same seed and tables give the same classes.
        votes: scratch, int32 (N,) of zeros, which it is again afterwards; made where absent.

    Raises:
        ValueError: for codes or forced classes out of range, and sizes that do not fit.
    """
    if use_native() and slots.device.type == "cpu":
        votes = torch.zeros(classes, dtype=torch.int32) if votes is None else votes
        limit, tail = min(limit, classes), min(tail, classes)
        most = min(classes, limit + tail + forced.numel())
        ids, drawn = torch.empty(most, dtype=torch.int64), torch.empty(most, dtype=torch.uint8)
        counts = torch.zeros(2, dtype=torch.int64)
        native.active_set(codes_RTP, slots, sizes, forced, limit, tail, seed, votes, ids, drawn, counts)
        head, taken = counts.tolist()
        return ActiveSet(ids[: head + taken], drawn[: head + taken].view(torch.bool), head, taken)
    if forced.numel() and (int(forced.min()) < 0 or int(forced.max()) >= classes):
        raise ValueError(f"forced: holds values out of range: expected 0 to {classes} - 1 (classes)")
    return reference(codes_RTP, slots, sizes, classes, forced, min(limit, classes), min(tail, classes), seed)
