"""Forward and every gradient of reuse against plain autograd through cluster means, native and reference."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reuse_oracle import conv2d as oracle_conv2d
from reuse_oracle import conv2d_patches as oracle_patches
from reuse_oracle import quantise
from torch.testing import assert_close

from thrifty._load_native import native
from thrifty.ops._backend import backend
from thrifty.ops.clusters import Clusters, piece_count
from thrifty.ops.geometry import Geometry
from thrifty.ops.group_codes import group_codes
from thrifty.ops.reuse_conv2d import (
    centroids_of,
    find_clusters,
    moments_of,
    multiply_clusters,
    patches_of,
    pixels_of,
    quantisation_error,
    reuse_conv2d,
    reuse_linear,
    rows_geometry,
)

BACKENDS = ["reference"] + (["native"] if native is not None else [])
TOLERANCE = {torch.float32: {"rtol": 2e-4, "atol": 2e-4}, torch.float64: {"rtol": 1e-9, "atol": 1e-9}}


@st.composite
def problems(draw):
    """A convolution of any shape, with a piece length that need not divide the channels."""
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    smallest = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    return {
        "batch": draw(st.integers(1, 3)),
        "channels": draw(st.integers(1, 9)),
        "outputs": draw(st.sampled_from([1, 3, 17, 40])),
        "size": tuple(draw(st.integers(smallest[i], smallest[i] + 4)) for i in range(2)),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "length": draw(st.integers(1, 10)),
        "bits": draw(st.integers(1, 6)),
        "scope_images": draw(st.integers(0, 2)),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 10_000)),
    }


def make(problem, dtype):
    source = torch.Generator().manual_seed(problem["seed"])

    def normal(*shape):
        return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)

    x = normal(problem["batch"], problem["channels"], *problem["size"])
    weight = normal(problem["outputs"], problem["channels"], *problem["kernel"])
    bias = normal(problem["outputs"]) if problem["bias"] else None
    length = min(problem["length"], problem["channels"])
    planes = normal(piece_count(problem["channels"], length), length, problem["bits"])
    return x, weight, bias, length, planes


def geometry_of(problem):
    h, w = problem["padding"]
    return Geometry.of(problem["size"], problem["kernel"], problem["stride"], (h, h, w, w), problem["dilation"])


def shape_of(problem):
    return {key: problem[key] for key in ("stride", "padding", "dilation")}


def agree(ours, oracle, inputs, dtype):
    """Outputs and the gradients of a random cotangent agree."""
    assert_close(ours, oracle, **TOLERANCE[dtype])
    cotangent = torch.randn_like(oracle)
    mine = torch.autograd.grad(ours, inputs, cotangent)
    theirs = torch.autograd.grad(oracle, inputs, cotangent)
    for a, b in zip(mine, theirs, strict=True):
        assert_close(a, b, **TOLERANCE[dtype])


@pytest.mark.parametrize("name, dtype", [(b, torch.float32) for b in BACKENDS] + [("reference", torch.float64)])
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_pixels_agree_with_the_oracle(name, dtype, problem):
    x, weight, bias, length, planes = make(problem, dtype)
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    with backend(name):
        rows = pixels_of(x)
        scope = problem["scope_images"] * problem["size"][0] * problem["size"][1] or rows.shape[0]
        clusters = find_clusters(rows, planes, moments_of(rows).mean, scope)
        ours = reuse_conv2d(x, weight, bias, clusters, length, geometry_of(problem))
        agree(ours, oracle_conv2d(x, weight, bias, clusters.ids, length, **shape_of(problem)), leaves, dtype)


@pytest.mark.parametrize("name, dtype", [(b, torch.float32) for b in BACKENDS] + [("reference", torch.float64)])
@settings(max_examples=40, deadline=None)
@given(problem=problems(), length=st.integers(1, 30))
def test_patches_agree_with_the_oracle(name, dtype, problem, length):
    x, weight, bias, _, _ = make(problem, dtype)
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    geometry = geometry_of(problem)
    with backend(name):
        rows = patches_of(x, geometry)
        length = min(length, rows.shape[1])
        planes = torch.randn(piece_count(rows.shape[1], length), length, problem["bits"], dtype=dtype)
        clusters = find_clusters(rows, planes, moments_of(rows).mean, rows.shape[0])
        y = multiply_clusters(centroids_of(rows, clusters, length), clusters, weight.flatten(1), bias, rows_geometry())
        ours = y.view(x.shape[0], *geometry.output, -1).permute(0, 3, 1, 2)
        agree(ours, oracle_patches(x, weight, bias, clusters.ids, length, **shape_of(problem)), leaves, dtype)


def distinct(groups, pixels):
    codes = torch.arange(pixels, dtype=torch.int32).expand(groups, pixels).contiguous()
    return Clusters(*group_codes(codes, pixels))


@pytest.mark.parametrize("name", BACKENDS)
def test_all_clusters_distinct_is_the_dense_layer(name):
    x = torch.randn(2, 10, 5, 4, dtype=torch.float64 if name == "reference" else torch.float32, requires_grad=True)
    weight = torch.randn(7, 10, 3, 3, dtype=x.dtype, requires_grad=True)
    geometry = Geometry.of((5, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    with backend(name):
        clusters = distinct(3, 40)
        ours = reuse_conv2d(x, weight, None, clusters, 4, geometry)
        assert quantisation_error(centroids_of(pixels_of(x), clusters, 4), clusters, moments_of(pixels_of(x))) < 1e-6
        agree(ours, F.conv2d(x, weight, padding=1), (x, weight), x.dtype)


@pytest.mark.parametrize("name", BACKENDS)
def test_clusters_of_duplicates_are_exact(name):
    dtype = torch.float64 if name == "reference" else torch.float32
    few = torch.randn(5, 6, dtype=dtype)
    rows = few[torch.randint(5, (200,))].requires_grad_()
    weight = torch.randn(8, 6, dtype=dtype, requires_grad=True)
    with backend(name):
        clusters = find_clusters(rows, torch.randn(1, 6, 12, dtype=dtype), moments_of(rows).mean, 200)
        assert clusters.starts.numel() - 1 <= 5
        assert_close(reuse_linear(rows, weight, None, clusters, 6), rows @ weight.T, **TOLERANCE[dtype])


@pytest.mark.parametrize("name", BACKENDS)
def test_one_cluster_gives_the_mean(name):
    dtype = torch.float64 if name == "reference" else torch.float32
    rows = torch.randn(50, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(8, 6, dtype=dtype, requires_grad=True)
    with backend(name):
        clusters = Clusters(*group_codes(torch.zeros(2, 50, dtype=torch.int32), 50))
        ours = reuse_linear(rows, weight, None, clusters, 3)
        agree(ours, (rows.mean(0, keepdim=True) @ weight.T).expand(50, -1), (rows, weight), dtype)


def test_first_layer_needs_no_input_gradient():
    x, weight = torch.randn(2, 8, 4, 4), torch.randn(3, 8, 3, 3, requires_grad=True)
    rows = pixels_of(x)
    clusters = find_clusters(rows, torch.randn(2, 4, 3), moments_of(rows).mean, rows.shape[0])
    geometry = Geometry.of((4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    y = reuse_conv2d(x, weight, None, clusters, 4, geometry)
    y.sum().backward()
    oracle = oracle_conv2d(x, weight, None, clusters.ids, 4, padding=1)
    assert_close(weight.grad, torch.autograd.grad(oracle.sum(), weight)[0], rtol=1e-4, atol=1e-4)
    assert x.grad is None


def small_problem():
    problem = {
        "batch": 2, "channels": 5, "outputs": 3, "size": (4, 5), "kernel": (3, 2), "stride": (2, 1), "padding": (1, 1),
        "dilation": (1, 2), "length": 2, "bits": 2, "bias": True, "seed": 3,
    }  # fmt: skip
    x, weight, bias, length, planes = make(problem, torch.float64)
    rows = pixels_of(x)
    clusters = find_clusters(rows, planes, moments_of(rows).mean, rows.shape[0])
    return (x, weight, bias), lambda *a: reuse_conv2d(*a, clusters, length, geometry_of(problem))


def test_gradcheck_forward_and_reverse():
    inputs, f = small_problem()
    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True)


def test_gradgradcheck():
    inputs, f = small_problem()
    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("outer, inner", list(itertools.product([torch.func.jacfwd, torch.func.jacrev], repeat=2)))
def test_every_nesting_of_torch_func(outer, inner):
    (x, weight, bias), f = small_problem()

    def ours(w):
        return f(x, w, bias).square().sum()

    value = torch.autograd.functional.hessian(ours, weight)
    assert value.abs().max() > 0
    assert_close(outer(inner(ours))(weight), value, rtol=1e-9, atol=1e-9)


def test_vmap_over_the_activation_says_why_not():
    planes = torch.randn(1, 4, 3)

    def per_sample(x):
        rows = pixels_of(x.unsqueeze(0))
        return find_clusters(rows, planes, torch.zeros(4), rows.shape[0]).ids

    with pytest.raises(RuntimeError, match="number of clusters differs from sample to sample"):
        torch.func.vmap(per_sample)(torch.randn(2, 4, 3, 3))


def test_quantisation_error_is_the_relative_squared_distance():
    rows = torch.randn(300, 7, dtype=torch.float64) + 3
    clusters = find_clusters(rows, torch.randn(2, 4, 3, dtype=torch.float64), moments_of(rows).mean, 300)
    expected = (rows - quantise(rows, clusters.ids, 4)).square().sum() / (rows - rows.mean(0)).square().sum()
    got = quantisation_error(centroids_of(rows, clusters, 4), clusters, moments_of(rows))
    assert got == pytest.approx(float(expected), abs=1e-9)


def test_quantisation_error_of_a_constant_is_zero():
    rows = torch.full((20, 4), 3.0)
    clusters = find_clusters(rows, torch.randn(1, 4, 3), moments_of(rows).mean, 20)
    assert quantisation_error(centroids_of(rows, clusters, 4), clusters, moments_of(rows)) == 0.0


def test_kernel_larger_than_the_input_is_refused():
    with pytest.raises(ValueError, match="larger than the padded input"):
        Geometry.of((3, 3), (5, 5), (1, 1), (0, 0, 0, 0), (1, 1))
