"""tune_search: it returns what it measured, reaches what it says, and keeps to its limits."""

import pytest
import torch

from thrifty.core.errors import UsageError
from thrifty.lsh import Hashing, LSHSoftmaxLoss, tune_search
from thrifty.lsh.hashing import sizes_for

CLASSES, FEATURES = 4000, 24


def problem():
    source = torch.Generator().manual_seed(0)
    centres = torch.randn(80, FEATURES, generator=source)
    weight = centres[torch.arange(CLASSES) % 80] + 0.5 * torch.randn(CLASSES, FEATURES, generator=source)
    queries = centres[torch.randint(80, (40,), generator=source)] + 0.3 * torch.randn(40, FEATURES, generator=source)
    return weight, queries


def test_the_chosen_setting_does_what_it_was_chosen_for():
    weight, queries = problem()
    found = tune_search(weight, None, queries, recall=0.8, budget_s=5)
    assert found.reached and found.recall >= 0.8
    head = LSHSoftmaxLoss(FEATURES, CLASSES, bias=False, when="hashed", hashing=found.hashing).eval()
    with torch.no_grad():
        head.weight.copy_(weight)
    _, ids = head.topk(queries, 10, probes=found.probes, candidates=found.candidates)
    best = (queries @ weight.T).topk(10).indices
    hits = sum(len(set(a) & set(b)) for a, b in zip(ids.tolist(), best.tolist(), strict=True))
    assert hits / 400 == pytest.approx(found.recall, abs=0.01)
    good = [row for row in found.tried if row["recall"] >= 0.8]
    assert found.latency_s == min(row["latency_s"] for row in good)


def test_more_probes_find_more():
    weight, queries = problem()
    tried = tune_search(weight, None, queries, recall=1.0, budget_s=60).tried
    most = max(row["candidates"] for row in tried)
    sizes = {(row["tables"], row["bits"]) for row in tried}
    assert len(sizes) > 1
    for size in sizes:
        recalls = [row["recall"] for row in tried if (row["tables"], row["bits"], row["candidates"]) == (*size, most)]
        assert recalls == sorted(recalls) and len(recalls) > 1


def test_tables_keep_to_the_memory():
    weight, queries = problem()
    share = 0.5
    found = tune_search(weight, torch.zeros(CLASSES), queries, recall=0.5, memory_share=share, budget_s=2)
    for row in found.tried:
        size = sizes_for(Hashing(bits=row["bits"], tables=row["tables"]), CLASSES, FEATURES)
        assert size.bytes <= share * 4 * weight.numel()
    tiny = tune_search(weight, None, queries, recall=1.0, memory_share=1e-6, budget_s=1e-9)
    assert tiny.hashing == Hashing() and not tiny.reached
    assert tiny.recall == max(row["recall"] for row in tiny.tried)


def test_winner_take_all_has_nothing_to_probe():
    weight, queries = problem()
    found = tune_search(weight, None, queries, hashing=Hashing(family="wta"), budget_s=0.1)
    assert found.probes == 1 and found.hashing.family == "wta"


@pytest.mark.parametrize(
    "change",
    [{"k": 0}, {"k": CLASSES + 1}, {"recall": 0}, {"recall": 1.1}, {"memory_share": 0}, {"budget_s": 0},
     {"queries": torch.zeros(0, FEATURES)}, {"queries": torch.zeros(3, FEATURES + 1)}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(change):
    weight, queries = problem()
    with pytest.raises(UsageError, match="tune_search: "):
        tune_search(weight, None, **{"queries": queries, **change})
