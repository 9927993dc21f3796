"""P@k, PSP@k, nDCG@k and HR@k against what is counted row by row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.core.errors import UsageError
from thrifty.data import SparseRows
from thrifty.data.ranking import Ranking, propensities


def labelled(sets, classes):
    offsets = torch.tensor([0, *[len(s) for s in sets]]).cumsum(0)
    labels = torch.tensor([label for s in sets for label in s], dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    return SparseRows(none, none.float(), torch.zeros(len(sets) + 1, dtype=torch.int64), labels, offsets, 1, classes)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_every_figure_is_the_one_counted_by_hand(seed, rows, classes, k):
    source = torch.Generator().manual_seed(seed)
    width = min(k, classes)
    top = torch.stack([torch.randperm(classes, generator=source)[:width] for _ in range(rows)])
    top[torch.rand(top.shape, generator=source) < 0.1] = -1
    sets = [torch.randperm(classes, generator=source)[: int(torch.randint(classes + 1, (), generator=source))].tolist()
            for _ in range(rows)]  # fmt: skip
    sets[0] = sets[0] or [0]
    truth = labelled(sets, classes)
    ranking, propensity = Ranking(top, truth), propensities(truth.labels, classes, rows)
    asked = [(found, set(right)) for found, right in zip(top.tolist(), sets, strict=True) if right]
    precision = sum(sum(i in right for i in found) / k for found, right in asked) / len(asked)
    assert ranking.precision(k) == pytest.approx(precision)
    assert ranking.hit_rate(k) == pytest.approx(sum(any(i in r for i in f) for f, r in asked) / len(asked))
    gains = []
    for found, right in asked:
        gain = sum(1 / math.log2(at + 2) for at, i in enumerate(found) if i in right)
        gains.append(gain / sum(1 / math.log2(at + 2) for at in range(min(k, len(right)))))
    assert ranking.ndcg(k) == pytest.approx(sum(gains) / len(gains))
    weight = (1 / propensity).tolist()
    reached = sum(weight[i] for found, right in asked for i in found if i in right)
    most = sum(sum(sorted((weight[i] for i in right), reverse=True)[:k]) for _, right in asked)
    assert ranking.psp(k, propensity) == pytest.approx(reached / most)


def test_a_perfect_ranking_reaches_one_and_rare_labels_weigh_more():
    sets = [[0, 1], [0], [0, 2]]
    truth = labelled(sets, 3)
    propensity = propensities(truth.labels, 3, 100)
    perfect = Ranking(torch.tensor([[0, 1], [0, 1], [0, 2]]), truth)
    assert perfect.hit_rate(1) == 1
    assert [perfect.ndcg(2), perfect.psp(2, propensity)] == pytest.approx([1, 1])
    rare, common = Ranking(torch.tensor([[1], [0], [2]]), truth), Ranking(torch.tensor([[0], [0], [0]]), truth)
    assert rare.precision(1) == common.precision(1) and rare.psp(1, propensity) > common.psp(1, propensity)
    assert propensity[0] > propensity[1]
    # one label seen once among e rows: C is 0, so every label is surely noted down
    assert float(propensities(torch.tensor([0]), 1, 3, a=0, b=0)) == pytest.approx(1 / (math.log(3)), rel=1e-6)


def test_rankings_that_do_not_fit_are_refused():
    truth = labelled([[0], []], 2)
    with pytest.raises(UsageError, match="does not fit 2 rows"):
        Ranking(torch.zeros(3, 1, dtype=torch.int64), truth)
    with pytest.raises(UsageError, match="no row has a label"):
        Ranking(torch.zeros(1, 1, dtype=torch.int64), labelled([[]], 2))
