"""Attention on clusters against dense attention on what the clusters stand for."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reuse_oracle import quantise
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from thrifty.ops.clustered_attention import clustered_keys, clustered_queries
from thrifty.ops.clusters import Clusters
from thrifty.ops.group_codes import group_codes

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def case(sequences, heads, positions, depth, codes, seed=0):
    """Rows of queries, keys and values, and clusters of heads and sequences."""
    source = torch.Generator().manual_seed(seed)
    rows = sequences * positions
    q, k, v = (
        torch.randn(rows, heads * depth, dtype=torch.float64, generator=source).requires_grad_() for _ in range(3)
    )
    found = torch.randint(0, codes, (heads, rows), dtype=torch.int32, generator=source)
    return (q, k, v), Clusters(*group_codes(found, positions))


def by_head(x, sequences, heads):
    return x.view(sequences, -1, heads, x.shape[1] // heads).transpose(1, 2)


def rows_of(y):
    return y.transpose(1, 2).flatten(2).flatten(0, 1)


shapes = given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99)
)


@shapes
@settings(max_examples=40, deadline=None)
def test_queries_agree_with_attention_of_the_means(sequences, heads, positions, depth, codes, seed):
    (q, k, v), clusters = case(sequences, heads, positions, depth, codes, seed)
    means = quantise(q, clusters.ids, depth)
    split = [by_head(x, sequences, heads) for x in (means, k, v)]
    wanted = rows_of(F.scaled_dot_product_attention(*split))
    compare(clustered_queries(q, split[1], split[2], clusters), wanted, [q, k, v])


@shapes
@settings(max_examples=40, deadline=None)
def test_keys_agree_with_attention_to_the_means(sequences, heads, positions, depth, codes, seed):
    (q, k, v), clusters = case(sequences, heads, positions, depth, codes, seed)
    split = [by_head(x, sequences, heads) for x in (q, *(quantise(x, clusters.ids, depth) for x in (k, v)))]
    wanted = rows_of(F.scaled_dot_product_attention(*split))
    compare(rows_of(clustered_keys(split[0], k, v, clusters)), wanted, [q, k, v])


def compare(y, wanted, leaves):
    assert_close(y, wanted, **EXACT)
    cotangent = torch.randn_like(wanted)
    assert_close(torch.autograd.grad(y, leaves, cotangent), torch.autograd.grad(wanted, leaves, cotangent), **EXACT)


def test_queries_under_a_mask_of_keys():
    (q, k, v), clusters = case(2, 2, 5, 3, 2)
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    mask[0, ..., 3:] = -torch.inf
    split = [by_head(x, 2, 2) for x in (quantise(q, clusters.ids, 3), k, v)]
    wanted = rows_of(F.scaled_dot_product_attention(*split, attn_mask=mask))
    compare(clustered_queries(q, split[1], split[2], clusters, mask), wanted, [q, k, v])


def test_a_masked_key_has_no_part_in_the_means():
    """With keys 3 and 4 of the first sequence masked, the answer is that of a sequence without them."""
    (q, k, v), _ = case(1, 2, 5, 3, 2)
    codes = torch.tensor([[0, 1, 0, 0, 2], [1, 1, 0, 0, 1]], dtype=torch.int32)
    mask = torch.zeros(5, dtype=torch.float64)
    mask[3:] = -torch.inf
    y = clustered_keys(by_head(q, 1, 2), k, v, Clusters(*group_codes(codes, 5)), mask)
    short = Clusters(*group_codes(codes[:, :3].contiguous(), 3))
    wanted = clustered_keys(by_head(q, 1, 2), k[:3], v[:3], short)
    compare(y, wanted, [q, k, v])


def test_weights_of_keys_count_as_so_many_copies():
    """A mask of log 3 on a key is two more copies of it."""
    (q, k, v), _ = case(1, 1, 4, 3, 2)
    codes = torch.tensor([[0, 1, 0, 1]], dtype=torch.int32)
    mask = torch.tensor([0.0, 3.0, 1.0, 1.0], dtype=torch.float64).log()  # key 0 is masked
    y = clustered_keys(by_head(q, 1, 1), k, v, Clusters(*group_codes(codes, 4)), mask)
    copies = [1, 1, 1, 2, 3]
    more = torch.tensor([[1, 1, 1, 0, 1]], dtype=torch.int32)
    wanted = clustered_keys(by_head(q, 1, 1), k[copies], v[copies], Clusters(*group_codes(more, 5)))
    assert_close(y, wanted, **EXACT)


@pytest.mark.parametrize("of", ["queries", "keys"])
def test_equals_only_is_dense_attention(of):
    (q, k, v), _ = case(2, 2, 6, 3, 2)
    pick = torch.tensor([0, 1, 2, 0, 1, 2, 6, 6, 7, 7, 8, 8])
    codes = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0, 1, 1, 2, 2]] * 2, dtype=torch.int32)
    clusters = Clusters(*group_codes(codes, 6))
    q, k, v = (x.detach()[pick] for x in (q, k, v))
    wanted = rows_of(F.scaled_dot_product_attention(*(by_head(x, 2, 2) for x in (q, k, v))))
    if of == "queries":
        y = clustered_queries(q, by_head(k, 2, 2), by_head(v, 2, 2), clusters)
    else:
        y = rows_of(clustered_keys(by_head(q, 2, 2), k, v, clusters))
    assert_close(y, wanted, **EXACT)


@pytest.mark.parametrize("of", ["queries", "keys"])
def test_derivatives_in_both_modes_and_of_second_order(of):
    leaves, clusters = case(1, 2, 3, 2, 2)

    def attention(q, k, v):
        if of == "queries":
            return clustered_queries(q, by_head(k, 1, 2), by_head(v, 1, 2), clusters)
        return clustered_keys(by_head(q, 1, 2), k, v, clusters)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert gradcheck(attention, leaves, check_forward_ad=True)
        assert gradgradcheck(attention, leaves)
