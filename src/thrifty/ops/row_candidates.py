"""row_candidates: the classes in a row's own buckets; rank_top: the best of them by exact score.

The two halves of a search: buckets propose, exact scores decide. Cost a row: T * P * C visits, and D multiply-adds for
each candidate.
"""

from collections import Counter

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native


def reference(codes_RTP: Tensor, slots: Tensor, sizes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Candidates (R, limit) int32 in the order in which they are met, and how many each row has (R,) int64."""
    ids = torch.full((codes_RTP.shape[0], limit), -1, dtype=torch.int32)
    found = torch.zeros(codes_RTP.shape[0], dtype=torch.int64)
    for r, row in enumerate(codes_RTP.tolist()):
        votes: Counter[int] = Counter()
        for t, probes in enumerate(row):
            for code in probes:
                votes.update(slots[t, code, : int(sizes[t, code])].tolist())
        kept = set(sorted(votes, key=lambda id_: -votes[id_])[:limit])
        chosen = [id_ for id_ in votes if id_ in kept]
        ids[r, : len(chosen)] = torch.tensor(chosen, dtype=torch.int32)
        found[r] = len(chosen)
    return ids, found


def row_candidates(codes_RTP: Tensor, slots: Tensor, sizes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Candidates of every row: ids int32 (R, limit), of which found int64 (R,) are there; each id once a row.

    Raises:
        ValueError: for codes out of range, and sizes that do not fit.
    """
    if not use_native() or slots.device.type != "cpu":
        return reference(codes_RTP, slots, sizes, limit)
    ids = torch.empty(codes_RTP.shape[0], limit, dtype=torch.int32)
    found = torch.empty(codes_RTP.shape[0], dtype=torch.int64)
    native.row_candidates(codes_RTP, slots, sizes, ids, found)
    return ids, found


def rank_reference(
    x_RD: Tensor, weight_ND: Tensor, bias_N: Tensor | None, ids: Tensor, found: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best candidates a row and their scores."""
    best = torch.full((len(x_RD), k), -1, dtype=torch.int64)
    scores = x_RD.new_full((len(x_RD), k), -torch.inf)
    for r, count in enumerate(found.tolist()):
        some = ids[r, :count].long().sort().values
        score = weight_ND[some] @ x_RD[r]
        if bias_N is not None:
            score = score + bias_N[some]
        keep = ~score.isnan()
        some, score = some[keep], score[keep]
        order = score.argsort(descending=True, stable=True)[:k]
        best[r, : len(order)], scores[r, : len(order)] = some[order], score[order]
    return best, scores


def rank_top(
    x_RD: Tensor, weight_ND: Tensor, bias_N: Tensor | None, ids: Tensor, found: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best candidates of every row, (R, k) int64 in falling order, and their scores (R, k).

    -1 and minus infinity fill up where a row has fewer candidates; NaN scores are left out.
    """
    floats = [t for t in (x_RD, weight_ND, bias_N) if t is not None]
    if not use_native(*floats):
        return rank_reference(x_RD, weight_ND, bias_N, ids, found, k)
    best = torch.empty(len(x_RD), k, dtype=torch.int64)
    scores = torch.empty(len(x_RD), k)
    native.rank_top(x_RD.contiguous(), weight_ND.contiguous(), bias_N, ids, found, best, scores)
    return best, scores
