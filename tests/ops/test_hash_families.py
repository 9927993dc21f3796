"""Hash families: native against reference, and collision rates against the closed forms."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from thrifty.ops._backend import backend
from thrifty.ops.inner_product import augment_classes, augment_queries, centre_of
from thrifty.ops.min_hash import min_hash, value_collision
from thrifty.ops.sim_hash import (
    bit_collision,
    pack_signs,
    probe_codes,
    probe_order,
    sim_hash,
    sparse_project,
    table_collision,
)
from thrifty.ops.wta_hash import ATTEMPTS, wta_hash

# Rates over this many independent draws lie within five standard deviations, so a right hash fails once in a million.
DRAWS = 40_000


def within(rate: float, wanted: float, draws: int) -> bool:
    return abs(rate - wanted) <= 5 * math.sqrt(max(wanted * (1 - wanted), 1e-4) / draws)


def at_angle(cosine: float, features: int = 24) -> torch.Tensor:
    first, other = torch.linalg.qr(torch.randn(features, 2, dtype=torch.float64)).Q.T
    return torch.stack([first, cosine * first + math.sqrt(1 - cosine**2) * other]).float()


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("sparse", [False, True])
def test_sim_hash_collides_as_the_angle_says(cosine, sparse):
    torch.manual_seed(int(100 * cosine) + 7)
    pair = at_angle(cosine, 300 if sparse else 24)
    if sparse:  # two thirds of the entries are zero; the central limit makes it agree with normal planes
        index = torch.stack([torch.randperm(300)[:100] for _ in range(DRAWS // 4)]).int()
        signs = torch.randint(2, index.shape).float() * 2 - 1
        codes = pack_signs(sparse_project(pair, index, signs), torch.zeros(DRAWS // 4, 1))
    else:
        codes = sim_hash(pair, torch.randn(24, DRAWS), torch.zeros(DRAWS, 1))
    rate = float((codes[0] == codes[1]).float().mean())
    slack = 0.02 if sparse else 0.0  # of the limit theorem
    assert within(rate, bit_collision(cosine), codes.shape[1]) or abs(rate - bit_collision(cosine)) < slack


def test_tables_of_bits_collide_as_composed():
    torch.manual_seed(3)
    bits, tables, groups = 4, 5, DRAWS // 20
    pair = at_angle(0.8)
    codes = sim_hash(pair, torch.randn(24, groups * tables * bits), torch.zeros(groups * tables, bits))
    met = (codes[0] == codes[1]).view(groups, tables).any(1)
    assert within(float(met.float().mean()), table_collision(bit_collision(0.8), bits, tables), groups)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_wta_collides_as_often_as_subsets_share_their_winner(size):
    torch.manual_seed(size)
    pair = torch.randn(2, 9)
    pair[1] = 0.7 * pair[0] + 0.7 * pair[1]
    subsets = list(itertools.combinations(range(9), size))
    same = sum(int(pair[0, list(s)].argmax()) == int(pair[1, list(s)].argmax()) for s in subsets) / len(subsets)
    index = torch.stack([torch.randperm(9)[:size] for _ in range(DRAWS)]).int().view(DRAWS, 1, size)
    codes = wta_hash(pair, index, ATTEMPTS)
    assert within(float((codes[0] == codes[1]).float().mean()), same, DRAWS)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 8, 9])
def test_wta_codes_fill_their_range_for_every_size_of_bin(size):
    """A natural logarithm for the number of bits gave a predecessor two bits for eight winners, so codes overlapped."""
    bins = 2
    pairs = list(itertools.product(range(size), repeat=bins))
    x = torch.full((len(pairs), size * bins), 0.5)
    for row, digits in enumerate(pairs):
        for k, digit in enumerate(digits):
            x[row, k * size + digit] = 1.0
    index = torch.arange(size * bins, dtype=torch.int32).view(1, bins, size)
    for name in ("auto", "reference"):
        with backend(name):
            codes = wta_hash(x, index, ATTEMPTS)[:, 0]
        assert sorted(codes.tolist()) == list(range(size**bins))


def test_densified_bins_borrow_alike_and_collide_as_the_full_ones():
    """Sparse rows that agree wherever they have features agree in every code; an empty row has code 0."""
    torch.manual_seed(0)
    x = torch.zeros(3, 1000)
    x[:2, torch.randperm(1000)[:40]] = torch.rand(40) + 0.1
    x[1] *= 2  # order is all that counts
    index = torch.stack([torch.randperm(1000)[:8] for _ in range(200)]).int().view(50, 4, 8)
    codes = wta_hash(x, index, ATTEMPTS)
    assert torch.equal(codes[0], codes[1])
    assert (codes[2] == 0).all()
    assert len(codes[0].unique()) > 25  # not all borrowed from one bin


@pytest.mark.parametrize("shared, only_one", [(0, 30), (10, 20), (30, 10), (30, 0)])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_min_hash_collides_as_the_jaccard_similarity_says(shared, only_one, bits):
    members = torch.randperm(10**9 % 2**20)[: shared + 2 * only_one].long()
    both, left, right = members[:shared], members[shared : shared + only_one], members[shared + only_one :]
    sets = torch.cat([both, left, both, right])
    offsets = torch.tensor([0, shared + only_one, 2 * (shared + only_one)])
    codes = min_hash(offsets, sets, DRAWS, 1, bits, 11 + bits)
    wanted = value_collision(shared / (shared + 2 * only_one), bits)
    assert within(float((codes[0] == codes[1]).float().mean()), wanted, DRAWS)


def test_min_hash_ignores_order_and_repetition():
    offsets = torch.tensor([0, 3, 7, 7])
    codes = min_hash(offsets, torch.tensor([5, -9, 2**40, 2**40, -9, 5, 5]), 20, 3, 6, 1)
    assert torch.equal(codes[0], codes[1]) and (codes[2] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 9), features=st.integers(1, 40), tables=st.integers(1, 5), bits=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_native_sim_hash_is_the_reference(rows, features, tables, bits, seed):
    torch.manual_seed(seed)
    projections, thresholds = torch.randn(rows, tables * bits), torch.randn(tables, bits)
    x, index = torch.randn(rows, features), torch.randint(features, (tables * bits, 3), dtype=torch.int32)
    signs = torch.randint(2, index.shape).float() * 2 - 1
    native = pack_signs(projections, thresholds), sparse_project(x, index, signs)
    with backend("reference"):
        assert torch.equal(native[0], pack_signs(projections, thresholds))
        assert_close(native[1], sparse_project(x, index, signs))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 6), features=st.integers(2, 30), tables=st.integers(1, 4), bins=st.integers(1, 5),
    size=st.integers(2, 9), keep=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_native_wta_and_min_hash_are_the_references(rows, features, tables, bins, size, keep, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, features).round(decimals=1) * (torch.rand(rows, features) < keep)
    index = torch.randint(features, (tables, bins, size), dtype=torch.int32)
    counts = torch.randint(5, (rows,))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    members = torch.randint(-(2**62), 2**62, (int(counts.sum()),))
    native = wta_hash(x, index, 7), min_hash(offsets, members, tables, 3, 5, seed)
    with backend("reference"):
        assert torch.equal(native[0], wta_hash(x, index, 7))
        assert torch.equal(native[1], min_hash(offsets, members, tables, 3, 5, seed))


@pytest.mark.parametrize("with_bias", [False, True])
def test_augmented_inner_products_order_as_scores_do(with_bias):
    torch.manual_seed(1)
    weight = torch.randn(50, 7, dtype=torch.float64) * torch.rand(50, 1, dtype=torch.float64) + 3
    bias = torch.randn(50, dtype=torch.float64) if with_bias else None
    x = torch.randn(4, 7, dtype=torch.float64)
    classes = augment_classes(weight, bias, centre_of(weight, bias))
    products = augment_queries(x) @ classes.T
    scores = x @ weight.T + (0 if bias is None else bias)
    shift = scores - products  # one number a query: what the mean class scores
    assert_close(shift, shift[:, :1].expand_as(shift))
    lengths = classes.norm(dim=1)
    assert_close(lengths, lengths.max().expand_as(lengths))


def test_a_class_that_outgrew_the_common_norm_keeps_its_direction():
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    centre = centre_of(weight, None)
    grown = augment_classes(torch.tensor([[5.0, 0.0]]), None, centre)
    assert grown.isfinite().all() and grown[0, 3] == 0


def test_probes_begin_with_the_own_code_and_flip_the_least_certain_bits():
    projections = torch.tensor([[-0.9, -0.1, -0.5, -0.2]])
    for name in ("auto", "reference"):
        with backend(name):
            assert probe_codes(projections, torch.zeros(1, 4), 4).tolist() == [[[0b0000, 0b0010, 0b1000, 0b1010]]]
    many, limits = torch.randn(6, 3 * 13), torch.randn(3, 13)
    with backend("reference"):
        wanted = probe_codes(many, limits, 40)
    assert torch.equal(probe_codes(many, limits, 40), wanted)
    for bits, probes in [(1, 9), (3, 8), (12, 40)]:
        sets = probe_order(bits, probes)
        assert sets[0] == () and len(set(sets)) == len(sets) == min(probes, 2**bits)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pack_signs(torch.randn(2, 5), torch.zeros(2, 3)), "do not belong together"),
        (lambda: pack_signs(torch.randn(2, 31), torch.zeros(1, 31)), "bits a code"),
        (lambda: sparse_project(torch.randn(2, 5), torch.zeros(3, 2).int(), torch.ones(3, 1)), "do not belong"),
        (lambda: wta_hash(torch.randn(2, 5), torch.zeros(1, 11, 8).int(), 3), "too many"),
        (lambda: wta_hash(torch.randn(2, 5), torch.zeros(1, 1, 8), 3), "do not belong"),
        (lambda: min_hash(torch.zeros(2), torch.zeros(2).long(), 1, 1, 1, 0), "int64"),
        (lambda: min_hash(torch.tensor([0, 1]), torch.zeros(1).long(), 1, 4, 8, 0), "30 bits"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("op, args", [
    (pack_signs, (torch.randn(4, 6), torch.zeros(2, 3))),
    (sparse_project, (torch.randn(4, 6), torch.zeros(2, 3).int(), torch.ones(2, 3))),
    (wta_hash, (torch.randn(4, 6), torch.zeros(2, 3, 2).int(), 5)),
    (min_hash, (torch.tensor([0, 1, 3]), torch.arange(3), 2, 2, 3, 0)),
])  # fmt: skip
def test_ops_are_well_registered(op, args):
    torch.library.opcheck(op.raw, args)
