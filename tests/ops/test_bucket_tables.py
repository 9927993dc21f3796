"""Bucket tables: native against reference, reservoirs that are uniform, and sets of active classes."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from thrifty.ops._backend import backend
from thrifty.ops.active_set import active_set
from thrifty.ops.row_candidates import rank_top, row_candidates
from thrifty.ops.table_update import table_update


def empty_tables(classes: int, tables: int, buckets: int, capacity: int) -> tuple[torch.Tensor, ...]:
    shapes = ((tables, buckets, capacity), (tables, buckets), (tables, buckets))
    slots, sizes, seen = (torch.zeros(shape, dtype=torch.int32) for shape in shapes)
    return slots, sizes, seen, torch.full((tables, classes), -1, dtype=torch.int32)


def codes_for(rows: int, tables: int, buckets: int) -> torch.Tensor:
    return torch.randint(buckets, (rows, tables), dtype=torch.int32)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(1, 40), tables=st.integers(1, 4), buckets=st.integers(1, 6), capacity=st.integers(1, 6),
    fifo=st.booleans(), moves=st.integers(0, 4), seed=st.integers(0, 2**62),
)  # fmt: skip
def test_native_tables_are_the_reference(classes, tables, buckets, capacity, fifo, moves, seed):
    torch.manual_seed(seed % 2**31)
    steps = [(range(classes), codes_for(classes, tables, buckets))]
    for _ in range(moves):
        rows = torch.randperm(classes)[: classes // 2 + 1]
        steps.append((rows, codes_for(len(rows), tables, buckets)))
    made = []
    for name in ("auto", "reference"):
        with backend(name):
            memory = empty_tables(classes, tables, buckets, capacity)
            for rows, codes in steps:
                table_update(rows, codes, fifo, seed, *memory)
            made.append(memory)
    slots, sizes, seen, codes = made[0]
    used = torch.arange(capacity) < sizes.unsqueeze(-1)
    assert torch.equal(slots[used], made[1][0][used])
    for mine, theirs in zip(made[0][1:], made[1][1:], strict=True):
        assert torch.equal(mine, theirs)
    # what must hold of any tables: every class is counted where its code says, and stored there or nowhere
    for t in range(tables):
        assert torch.equal(seen[t], torch.bincount(codes[t].long(), minlength=buckets).int())
        for b in range(buckets):
            inside = slots[t, b, : int(sizes[t, b])].tolist()
            assert len(set(inside)) == len(inside) and all(int(codes[t, i]) == b for i in inside)


def test_a_full_bucket_keeps_a_uniform_sample():
    """A predecessor accepted the n-th offer with probability 1 / n instead of capacity / n."""
    offers, capacity, draws = 40, 8, 4000
    kept = torch.zeros(offers)
    for seed in range(draws):
        slots, sizes, seen, codes = empty_tables(offers, 1, 1, capacity)
        table_update(range(offers), torch.zeros(offers, 1, dtype=torch.int32), False, seed, slots, sizes, seen, codes)
        kept[slots[0, 0].long()] += 1
    wanted = draws * capacity / offers
    assert (kept - wanted).abs().max() < 5 * (wanted * (1 - capacity / offers)) ** 0.5


def test_fifo_keeps_the_latest_in_order():
    slots, sizes, seen, codes = empty_tables(9, 1, 2, 3)
    table_update(range(7), torch.zeros(7, 1, dtype=torch.int32), True, 0, slots, sizes, seen, codes)
    assert slots[0, 0].tolist() == [4, 5, 6]
    table_update(torch.tensor([5]), torch.ones(1, 1, dtype=torch.int32), True, 0, slots, sizes, seen, codes)
    assert slots[0, 0, :2].tolist() == [4, 6] and sizes.tolist() == [[2, 1]]


def filled(classes: int = 300, tables: int = 3, buckets: int = 16, capacity: int = 12) -> tuple[torch.Tensor, ...]:
    memory = empty_tables(classes, tables, buckets, capacity)
    table_update(range(classes), codes_for(classes, tables, buckets), False, 5, *memory)
    return memory


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 6), probes=st.integers(1, 3), labels=st.integers(0, 20), limit=st.integers(0, 320),
    tail=st.integers(0, 310), seed=st.integers(0, 2**62),
)  # fmt: skip
def test_native_active_sets_are_the_reference(rows, probes, labels, limit, tail, seed):
    torch.manual_seed(seed % 2**31)
    slots, sizes, _, _ = filled()
    codes = torch.randint(16, (rows, 3, probes), dtype=torch.int32)
    forced = torch.randint(300, (labels,))
    votes = torch.zeros(300, dtype=torch.int32)
    mine = active_set(codes, slots, sizes, 300, forced, limit, tail, seed, votes)
    assert not votes.any()
    with backend("reference"):
        theirs = active_set(codes, slots, sizes, 300, forced, limit, tail, seed)
    assert torch.equal(mine.ids, theirs.ids) and torch.equal(mine.drawn, theirs.drawn)
    assert mine[2:] == theirs[2:]
    assert set(forced.tolist()) <= set(mine.ids[~mine.drawn].tolist())
    assert mine.tail == min(tail, 300 - mine.head)
    ids, found = row_candidates(codes, slots, sizes, 9)
    with backend("reference"):
        wanted, count = row_candidates(codes, slots, sizes, 9)
    assert torch.equal(found, count)
    assert all(torch.equal(ids[r, :n], wanted[r, :n]) for r, n in enumerate(found.tolist()))


def test_the_head_is_what_was_voted_for_most():
    slots, sizes, seen, codes = empty_tables(6, 2, 2, 4)
    where = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1], [1, 1]], dtype=torch.int32)
    table_update(range(6), where, False, 0, slots, sizes, seen, codes)
    looked = torch.tensor([[[0], [0]]], dtype=torch.int32)
    found = active_set(looked, slots, sizes, 6, torch.tensor([5, 5]), 1, 0, 0)
    assert found.ids.tolist() == [0, 5] and not found.drawn.any()


def test_the_tail_is_drawn_uniformly_from_the_rest():
    slots, sizes, _, _ = filled(classes=20, buckets=2)
    none, forced = torch.zeros(0, 3, 1, dtype=torch.int32), torch.tensor([3, 7])
    drawn = torch.zeros(20)
    for seed in range(6000):
        chosen = active_set(none, slots, sizes, 20, forced, 0, 5, seed)
        drawn[chosen.ids[chosen.drawn]] += 1
    wanted = 6000 * 5 / 18
    assert drawn[forced].sum() == 0
    others = drawn[[i for i in range(20) if i not in (3, 7)]]
    assert (others - wanted).abs().max() < 5 * (wanted * (1 - 5 / 18)) ** 0.5


@pytest.mark.parametrize("name", ["auto", "reference"])
def test_tables_of_another_layer_are_no_danger(name):
    """Ids beyond the classes, sizes beyond the capacity: skipped, never read or written elsewhere."""
    slots, sizes, _, _ = filled()
    slots[0, 0, 0], slots[1, 0, 0] = 2**31 - 1, -5
    sizes[2, 0] = 2**31 - 1
    with backend("native" if name == "auto" else "reference"):
        if name == "auto":
            chosen = active_set(torch.zeros(1, 3, 1).int(), slots, sizes, 300, torch.zeros(0).long(), 300, 0, 0)
            assert ((chosen.ids >= 0) & (chosen.ids < 300)).all()
            ids, found = row_candidates(torch.zeros(1, 3, 1).int(), slots, sizes, 50)
            with pytest.raises(ValueError, match="ids: holds values out of range"):
                rank_top(torch.randn(1, 4), torch.randn(300, 4), None, ids, found, 3)
        with pytest.raises(ValueError, match="out of range"):
            active_set(torch.zeros(1, 3, 1).int(), slots, sizes, 300, torch.tensor([300]), 5, 5, 0)
        with pytest.raises(ValueError, match="out of range"):
            table_update(torch.tensor([300]), torch.zeros(1, 3).int(), False, 0, slots, sizes, sizes, sizes.clone())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 4),
    features=st.integers(1, 40),
    k=st.integers(1, 12),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_ranking_is_exact(rows, features, k, bias, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, features), torch.randn(60, features)
    offset = torch.randn(60) if bias else None
    ids = torch.stack([torch.randperm(60)[:20] for _ in range(rows)]).int() if rows else torch.zeros(0, 20).int()
    found = torch.randint(21, (rows,))
    best, scores = rank_top(x, weight, offset, ids, found, k)
    with backend("reference"):
        wanted, values = rank_top(x, weight, offset, ids, found, k)
    assert_close(scores, values, rtol=1e-4, atol=1e-4)
    assert torch.equal(best == -1, wanted == -1)


def test_ties_go_to_the_smaller_id_and_nan_is_never_best():
    weight = torch.tensor([[1.0], [float("nan")], [1.0], [2.0]])
    ids, found = torch.tensor([[2, 1, 0, 3]], dtype=torch.int32), torch.tensor([4])
    for name in ("auto", "reference"):
        with backend(name):
            best, scores = rank_top(torch.ones(1, 1), weight, None, ids, found, 4)
        assert best.tolist() == [[3, 0, 2, -1]] and scores[0, 3] == -torch.inf


def test_readers_beside_a_writer_see_only_classes():
    slots, sizes, seen, codes = filled(classes=5000, buckets=64, capacity=40)
    stop = threading.Event()
    wrong = []

    def read():
        looked = torch.randint(64, (8, 3, 1), dtype=torch.int32)
        while not stop.is_set():
            ids, found = row_candidates(looked, slots, sizes, 200)
            for r, n in enumerate(found.tolist()):
                if n and (int(ids[r, :n].min()) < 0 or int(ids[r, :n].max()) >= 5000):
                    wrong.append(r)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(40):
        rows = torch.randperm(5000)[:500]
        table_update(rows, codes_for(500, 3, 64), False, 1, slots, sizes, seen, codes)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
