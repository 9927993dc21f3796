"""Each op by itself: contract of the dispatcher, native against reference, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from thrifty._load_native import native
from thrifty.ops import _stages, channel_moments, cluster_mean, gather_add, group_codes, grouped_mm, sign_hash
from thrifty.ops._backend import backend
from thrifty.ops.clusters import Clusters, cut, join, piece_count
from thrifty.ops.geometry import Geometry

needs_native = pytest.mark.skipif(native is None, reason="the native kernels are not built here")
ops = torch.ops.thrifty


def clusters_of(groups=2, pixels=24, kinds=5, scope=24):
    codes = torch.randint(kinds, (groups, pixels), dtype=torch.int32)
    return Clusters(*group_codes.group_codes(codes, scope))


def samples():
    clusters = clusters_of()
    count = clusters.starts.numel() - 1
    geometry = Geometry.of((3, 4), (2, 2), (1, 1), (1, 1, 0, 0), (1, 1)).flat()
    x = torch.randn(24, 7, requires_grad=True)
    yield ops.channel_moments, (x.detach(),)
    yield ops.sign_hash, (x.detach(), torch.randn(2, 4, 3), torch.zeros(2, 3))
    yield ops.group_codes, (torch.randint(4, (2, 24), dtype=torch.int32), 12)
    yield ops.cluster_mean, (x, *clusters, 4, 7)
    yield ops.cluster_spread, (torch.randn(count, 4, requires_grad=True), *clusters, 4, 7)
    yield (
        ops.grouped_mm,
        (torch.randn(count, 4, requires_grad=True), torch.randn(2, 4, 6, requires_grad=True), clusters.offsets),
    )
    yield (
        ops.grouped_outer,
        (torch.randn(count, 4, requires_grad=True), torch.randn(count, 6, requires_grad=True), clusters.offsets),
    )
    table = torch.randn(count, 4, 6, requires_grad=True)
    yield ops.gather_add, (table, torch.randn(6, requires_grad=True), *clusters, geometry)
    yield ops.gather_add, (table, None, *clusters, geometry)
    yield ops.pull_sums, (torch.randn(2, 4, 3, 6, requires_grad=True), *clusters, geometry)


@pytest.mark.parametrize("index", range(10))
def test_opcheck(index):
    op, args = list(samples())[index]
    torch.library.opcheck(op.default, args)


@needs_native
@settings(max_examples=50, deadline=None)
@given(
    groups=st.integers(1, 3), pixels=st.integers(0, 70), kinds=st.sampled_from([1, 3, 50, 5000, 2**30]),
    scope=st.integers(1, 80), seed=st.integers(0, 1000),
)  # fmt: skip
def test_native_grouping_is_the_reference_exactly(groups, pixels, kinds, scope, seed):
    codes = torch.randint(kinds, (groups, pixels), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))
    ours = group_codes.group_codes(codes, scope)
    with backend("reference"):
        reference = group_codes.group_codes(codes, scope)
    for a, b in zip(ours, reference, strict=True):
        assert torch.equal(a, b)


@needs_native
def test_codes_are_grouped_whatever_their_strides():
    codes = torch.randint(5, (40, 3), dtype=torch.int32).t()
    for a, b in zip(group_codes.group_codes(codes, 9), group_codes.group_codes(codes.contiguous(), 9), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["reference", "auto"])
def test_grouping_keeps_codes_scopes_and_groups_apart(name):
    codes = torch.randint(6, (3, 50), dtype=torch.int32)
    with backend(name):
        clusters = Clusters(*group_codes.group_codes(codes, 20))
    keys = {}
    for g in range(3):
        for p in range(50):
            keys.setdefault((g, p // 20, int(codes[g, p])), set()).add(int(clusters.ids[g, p]))
    assert all(len(ids) == 1 for ids in keys.values())
    assert len({ids.pop() for ids in keys.values()}) == len(keys) == clusters.starts.numel() - 1
    for k in range(clusters.starts.numel() - 1):
        members = clusters.order.flatten()[clusters.starts[k] : clusters.starts[k + 1]].tolist()
        assert members == sorted(members) and members
    assert clusters.counts.sum() == 150
    assert clusters.remaining_ratio == len(keys) / 150


@needs_native
@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 40), channels=st.integers(1, 40), length=st.integers(1, 40), bits=st.integers(1, 30),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_native_hash_agrees_with_the_reference(rows, channels, length, bits, seed):
    source = torch.Generator().manual_seed(seed)
    groups = piece_count(channels, length)
    x = torch.randn(rows, channels, generator=source)
    planes = torch.randn(groups, length, bits, generator=source)
    thresholds = torch.randn(groups, bits, generator=source)
    ours = sign_hash.sign_hash(x, planes, thresholds)
    exact = sign_hash.reference(x.double(), planes.double(), thresholds.double())
    near = torch.bmm(cut(x.double(), length), planes.double()) - thresholds.double().unsqueeze(1)
    doubtful = (near.abs() < 1e-4).any(-1)
    assert torch.equal(ours[~doubtful], exact[~doubtful])


@needs_native
def test_every_instruction_set_and_thread_count_gives_the_same_clusters():
    x, planes = torch.randn(3000, 20), torch.randn(2, 10, 7)
    before, threads = native.isa(), torch.get_num_threads()
    answers = []
    try:
        for isa in native.isas():
            for count in (1, 2):
                native.set_isa(isa)
                torch.set_num_threads(count)
                codes = sign_hash.sign_hash(x, planes, torch.zeros(2, 7))
                answers.append(group_codes.group_codes(codes, 1000))
    finally:
        native.set_isa(before)
        torch.set_num_threads(threads)
    for answer in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answer, answers[0], strict=True))


@needs_native
def test_large_clusters_are_summed_like_small_ones():
    clusters = Clusters(*group_codes.group_codes((torch.rand(1, 9000) < 0.1).int(), 9000))
    geometry = Geometry.of((30, 30), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)).flat()
    y = torch.randn(10, 30, 30, 70)
    ours = gather_add.pull_sums(y, *clusters, geometry)
    with backend("reference"):
        assert_close(ours, gather_add.pull_sums(y, *clusters, geometry), rtol=1e-3, atol=1e-3)
        mean = cluster_mean.cluster_mean(y.reshape(9000, 70), *clusters, 70, 70)
    assert_close(cluster_mean.cluster_mean(y.reshape(9000, 70), *clusters, 70, 70), mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels, length", [(1, 1), (7, 3), (8, 4), (3, 8)])
def test_cut_and_join_are_inverse(channels, length):
    x = torch.randn(5, channels)
    pieces = cut(x, length)
    assert pieces.shape == (piece_count(channels, length), 5, length)
    assert torch.equal(join(pieces, channels), x)


def test_moments_are_exact_in_double():
    x = torch.randn(3000, 5) + 100
    moments = channel_moments.channel_moments(x)
    assert_close(moments, channel_moments.reference(x), rtol=1e-12, atol=0)


def test_stage_seconds_reach_the_layer_that_listens_forward_and_backward():
    clusters, sink = clusters_of(), _stages.StageSeconds()
    table = torch.randn(clusters.starts.numel() - 1, 4, 6, requires_grad=True)
    geometry = Geometry.of((3, 4), (2, 2), (1, 1), (1, 1, 0, 0), (1, 1)).flat()
    with _stages.report_to(sink):
        y = gather_add.gather_add(table, None, *clusters, geometry)
    assert set(sink) == {"gather"}
    y.sum().backward()
    assert set(sink) == {"gather", "scatter"} and all(seconds > 0 for seconds in sink.values())


def test_a_raw_op_under_torch_func_raises_instead_of_answering_zero():
    clusters = clusters_of()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda x: ops.cluster_mean(x, *clusters, 4, 7), (torch.randn(24, 7),), (torch.randn(24, 7),))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda c: sign_hash.sign_hash(torch.randn(5, 7), torch.randn(3, 4, 2), torch.zeros(3, 2)), "do not belong"),
        (lambda c: sign_hash.sign_hash(torch.randn(5, 4), torch.randn(1, 4, 31), torch.zeros(1, 31)), "hash bits"),
        (lambda c: group_codes.group_codes(torch.zeros(2, 3, dtype=torch.int32), 0), "at least one pixel"),
        (lambda c: group_codes.group_codes(torch.zeros(2, 3), 1), "must be int32"),
        (lambda c: group_codes.group_codes(torch.zeros(1, 1).int().expand(2, 2**30), 1), "numbered by int32"),
        (lambda c: cluster_mean.cluster_mean(torch.randn(9, 7), *c, 4, 7), "do not fit"),
        (lambda c: grouped_mm.grouped_mm(torch.randn(4, 3), torch.randn(2, 4, 5), c.offsets), "do not belong"),
        (lambda c: gather_add.gather_add(torch.randn(1, 1, 5), None, *c, [1] * 8 + [0, 0, 1, 1]), "does not fit"),
        (lambda c: gather_add.pull_sums(torch.randn(9, 1, 1, 5), *c, [1] * 8 + [0, 0, 1, 1]), "do not fit"),
        (lambda c: channel_moments.channel_moments(torch.randn(3)), "expected"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(clusters_of())


def test_unknown_backend():
    with pytest.raises(ValueError, match="choose one of"), backend("fast"):
        pass
