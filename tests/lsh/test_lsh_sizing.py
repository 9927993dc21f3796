"""size_tables: the closed form against counting, and a choice that keeps to memory and time."""

import math

import pytest
import torch

from thrifty.core.errors import UsageError
from thrifty.lsh import Hashing, LSHSoftmaxLoss, best_angle, size_tables
from thrifty.lsh.cost import predict_head, predict_hidden
from thrifty.lsh.family import draw_macs
from thrifty.lsh.hashing import sizes_for
from thrifty.lsh.index import ClassIndex
from thrifty.lsh.sizing import expected_recall

CLASSES, FEATURES = 3000, 48


def classes_at(angle, count, seed):
    """Unit classes in random directions, and as many queries at `angle` degrees of the first of them."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.nn.functional.normalize(torch.randn(CLASSES, FEATURES, generator=source), dim=1)
    aside = torch.randn(count, FEATURES, generator=source)
    aside -= (aside * weight[:count]).sum(1, keepdim=True) * weight[:count]
    aside = torch.nn.functional.normalize(aside, dim=1)
    turned = math.radians(angle)
    return weight, math.cos(turned) * weight[:count] + math.sin(turned) * aside


@pytest.mark.parametrize(("rows", "tables", "bits", "active"), [(1, 12, 5, 150), (1, 8, 3, 60), (6, 16, 6, 300)])
def test_the_closed_form_is_what_is_counted(rows, tables, bits, active):
    found = []
    for seed in range(60 if rows == 1 else 20):
        # The query lies 45 degrees from its class; [x, 1, 0] of length 9 makes the added one small.
        weight, x = classes_at(45, rows, seed)
        hashing = Hashing(tables=tables, bits=bits, capacity=CLASSES, seed=seed)
        index = ClassIndex(hashing, CLASSES, FEATURES)
        index.rebuild(weight, None)
        chosen = index.active(index.query_codes(9 * x), torch.zeros(0, dtype=torch.int64), active, 0, seed)
        found += torch.isin(torch.arange(rows), chosen.ids).tolist()
    expected = expected_recall(CLASSES, rows, tables, bits, active, 45)
    error = math.sqrt(expected * (1 - expected) / len(found))
    assert sum(found) / len(found) == pytest.approx(expected, abs=4 * error + 0.04)


def test_recall_rises_with_tables_and_active_classes_and_falls_with_the_angle():
    base = expected_recall(50_000, 64, 6, 8, 1000)
    assert 0 < base < 1
    assert expected_recall(50_000, 64, 12, 8, 1000) > base
    assert expected_recall(50_000, 64, 6, 8, 4000) > base
    assert expected_recall(50_000, 64, 6, 8, 1000, angle=75) < base < expected_recall(50_000, 64, 6, 8, 1000, angle=30)
    assert expected_recall(50_000, 64, 6, 8, 50_000) == pytest.approx(1 - (1 - 1 / 256) ** 384, abs=0.05)


@pytest.mark.parametrize("budget_s", [None, 0.02, 0.05])
def test_the_choice_keeps_to_memory_and_time_and_more_time_finds_no_less(budget_s):
    found = size_tables(100_000, 128, rows=128, active=1024, budget_s=budget_s)
    size = sizes_for(found.hashing, 100_000, 128)
    cost = predict_head(128, 128, 100_000, 1024, size)
    assert found.fits and found.step_s == cost.hashed_s <= (cost.dense_s / 2 if budget_s is None else budget_s)
    assert size.bytes <= 0.25 * 4 * 128 * 100_000
    assert found.recall == expected_recall(100_000, 128, size.tables, size.bits, 1024)
    longer = size_tables(100_000, 128, rows=128, active=1024, budget_s=10 * (budget_s or cost.dense_s))
    assert longer.recall >= found.recall - 0.005
    more_memory = size_tables(100_000, 128, rows=128, active=1024, budget_s=1.0, hashing=Hashing(memory_share=1.0))
    assert more_memory.recall >= longer.recall - 0.005


def test_a_budget_that_nothing_keeps_to_gives_the_cheapest_and_says_so():
    found = size_tables(100_000, 128, rows=128, active=1024, budget_s=1e-9)
    assert not found.fits and found.step_s > 1e-9
    assert size_tables(100_000, 128, rows=128, active=1024, budget_s=1.0).step_s >= found.step_s


def test_it_makes_a_layer():
    found = size_tables(CLASSES, FEATURES, rows=8, active=100, hashing=Hashing(seed=5, memory_share=0.5))
    assert found.hashing.seed == 5
    head = LSHSoftmaxLoss(FEATURES, CLASSES, active=100, hashing=found.hashing)
    head.rebuild()
    size = head.index.size
    assert (size.tables, size.bits, size.capacity) == (
        found.hashing.tables, found.hashing.bits, found.hashing.capacity,
    )  # fmt: skip


def test_hidden_layers_have_their_own_cost():
    found = size_tables(1000, 784, rows=64, active=50, shared=False, hidden=True, hashing=Hashing(family="sparse"))
    size = sizes_for(found.hashing, 1000, 784)
    macs = draw_macs(found.hashing, 786, size)
    assert found.step_s == predict_hidden(64, 784, 1000, 50, size, False, macs).hashed_s
    assert found.recall == expected_recall(1000, 1, size.tables, size.bits, 50)


def test_the_angle_is_that_of_the_best_classes():
    weight, x = classes_at(40, 50, 0)
    assert best_angle(weight, None, 9 * x, k=1) == pytest.approx(40, abs=1.5)
    assert best_angle(weight, torch.zeros(CLASSES), 9 * x, k=5) > best_angle(weight, None, 9 * x, k=1)
    with pytest.raises(UsageError, match="do not fit"):
        best_angle(weight, None, x[:, :3])


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"active": 0}, {"budget_s": 0.0}, {"angle": 90}, {"hashing": Hashing(family="wta")}]
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UsageError, match="size_tables"):
        size_tables(1000, 16, **{"rows": 4, "active": 50, **wrong})
