"""skip_conv2d and its adjoints against torch's convolution in double, on both routes, and under every transform."""

import itertools

import pytest
import torch
import torch.autograd.forward_ad as fwad
import torch.nn.functional as F
from hypothesis import given, settings
from skip_problems import DENSE, SKIP, make, problems, sparse
from torch.testing import assert_close

from thrifty._load_native import native
from thrifty.ops import _stages
from thrifty.ops._backend import backend
from thrifty.ops.geometry import Geometry
from thrifty.ops.skip_conv2d import share_of_nonzeros, skip_conv2d, skip_conv2d_input, skip_conv2d_weight

needs_native = pytest.mark.skipif(native is None, reason="the native kernels are not built here")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
ROUNDED = {"rtol": 1e-4, "atol": 1e-3}


def oracle(x, w, bias, geometry):
    """torch's convolution of the input with its zeros written around it; cut to the outputs that are asked for."""
    bottom, right = (max(0, far) for far in geometry.far_padding)
    framed = F.pad(x, (geometry.padding[1], right, geometry.padding[0], bottom))
    y = F.conv2d(framed, w, bias, geometry.stride, 0, geometry.dilation)
    return y[:, :, : geometry.output[0], : geometry.output[1]]


def answers(x, w, bias, y, geometry):
    """The oracle's output, and its gradients of x and w for the cotangent y; all in double."""
    x, w, y = (t.double().contiguous() for t in (x, w, y))
    x, w = x.requires_grad_(), w.requires_grad_()
    out = oracle(x, w, None if bias is None else bias.double(), geometry)
    return [out.detach(), *torch.autograd.grad(out, (x, w), y)]


def ours(x, w, bias, y, geometry, limits):
    rest = geometry.flat(), limits
    return [skip_conv2d(x, w, bias, *rest), skip_conv2d_input(y, w, *rest), skip_conv2d_weight(y, x, *rest)]


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_the_dense_route_in_double_is_torchs_convolution(problem):
    given = make(problem, torch.float64)
    for got, wanted in zip(
        ours(*given, problem["geometry"], DENSE), answers(*given, problem["geometry"]), strict=True
    ):  # fmt: skip
        assert_close(got, wanted, **EXACT)


@needs_native
@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_the_native_route_agrees_with_torchs_convolution(problem):
    given = make(problem, torch.float32)
    for got, wanted in zip(ours(*given, problem["geometry"], SKIP), answers(*given, problem["geometry"]), strict=True):
        assert_close(got, wanted.float(), **ROUNDED)
        assert got.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_an_op_and_its_adjoints_agree_in_one_number(problem):
    x, w, _, y = make(problem, torch.float64)
    out, dx, dw = ours(x, w, None, y, problem["geometry"], DENSE)
    assert_close((out * y).sum(), (dx * x).sum(), **EXACT)
    assert_close((out * y).sum(), (dw * w).sum(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limits", [SKIP, DENSE])
def test_gradients_of_one_call(limits, dtype):
    given = (sparse(2, 5, 7, 6, dtype=dtype), sparse(9, 5, 3, 3, density=1, dtype=dtype), torch.randn(9, dtype=dtype))
    x, w, bias = (t.requires_grad_() for t in given)
    geometry = Geometry.of((7, 6), (3, 3), (2, 1), (1, 1, 1, 1), (1, 1))
    y = skip_conv2d(x, w, bias, geometry.flat(), limits)
    cotangent = sparse(*y.shape, dtype=dtype)
    wanted = F.conv2d(x.double(), w.double(), bias.double(), (2, 1), 1)
    exact = EXACT if dtype == torch.float64 else ROUNDED
    got = torch.autograd.grad(y, (x, w, bias), cotangent)
    for a, b in zip(got, torch.autograd.grad(wanted, (x, w, bias), cotangent.double()), strict=True):
        assert_close(a, b, **exact)


# A convolution whose far padding is not the near one, so that none of torch's paddings fits it.
UNEVEN = Geometry.of((4, 5), (3, 2), (2, 1), (1, 0, 0, 2), (1, 2))


def small(name):
    """An op of UNEVEN, and its tensors in double."""
    x, w, y = sparse(2, 3, 4, 5), sparse(4, 3, 3, 2, density=1), sparse(2, 4, *UNEVEN.output)
    bias = torch.randn(4, dtype=torch.float64)
    rest = UNEVEN.flat(), DENSE
    op, tensors = {
        "conv": (skip_conv2d, (x, w, bias)),
        "conv without bias": (lambda x, w, *rest: skip_conv2d(x, w, None, *rest), (x, w)),
        "input": (skip_conv2d_input, (y, w)),
        "weight": (skip_conv2d_weight, (y, x)),
    }[name]
    return (lambda *tensors: op(*tensors, *rest)), tensors


OPS = ["conv", "conv without bias", "input", "weight"]


@pytest.fixture(params=OPS)
def problem(request):
    torch.manual_seed(0)
    return small(request.param)


def test_gradcheck_forward_and_reverse(problem):
    f, tensors = problem
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True)


def test_gradcheck_of_each_argument_by_itself(problem):
    f, tensors = problem
    for i in range(len(tensors)):
        leaves = [t.detach().clone().requires_grad_(i == j) for j, t in enumerate(tensors)]
        assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True)


def test_gradgradcheck(problem):
    f, tensors = problem
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradgradcheck(f, leaves, check_fwd_over_rev=True)


def test_torch_func_grad_vjp_and_jvp(problem):
    f, tensors = problem
    tangents = [torch.randn_like(t) for t in tensors]
    y, y_t = torch.func.jvp(f, tensors, tuple(tangents))
    assert_close(y, f(*tensors), **EXACT)
    cotangent = torch.randn_like(y)
    gradients = torch.func.vjp(f, *tensors)[1](cotangent)
    inner = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert_close((y_t * cotangent).sum(), inner, **EXACT)
    by_grad = torch.func.grad(lambda *t: (f(*t) * cotangent).sum(), argnums=tuple(range(len(tensors))))(*tensors)
    assert_close(by_grad, gradients, **EXACT)


def test_forward_mode_with_dual_tensors(problem):
    f, tensors = problem
    tangent = torch.randn_like(tensors[-1])
    with fwad.dual_level():
        y_t = fwad.unpack_dual(f(*tensors[:-1], fwad.make_dual(tensors[-1], tangent))).tangent
    wanted = torch.func.jvp(lambda t: f(*tensors[:-1], t), (tensors[-1],), (tangent,))[1]
    assert y_t is not None and y_t.abs().max() > 0
    assert_close(y_t, wanted, **EXACT)


@pytest.mark.parametrize("outer, inner", list(itertools.product([torch.func.jacfwd, torch.func.jacrev], repeat=2)))
def test_every_nesting_of_torch_func(problem, outer, inner):
    f, (first, *others) = problem

    def loss(t):
        return f(t, *others).square().sum()

    value = torch.autograd.functional.hessian(loss, first)
    assert value.abs().max() > 0
    assert_close(outer(inner(loss))(first), value, **EXACT)


def test_vmap_over_any_argument(problem):
    f, tensors = problem
    for i in range(len(tensors)):
        batch = torch.randn(3, *tensors[i].shape, dtype=torch.float64)

        def call(t, i=i):
            return f(*tensors[:i], t, *tensors[i + 1 :])

        assert_close(torch.func.vmap(call)(batch), torch.stack([call(t) for t in batch]), **EXACT)


def test_per_sample_gradients():
    x, w, geometry = sparse(3, 2, 4, 4), sparse(5, 2, 3, 3), Geometry.of((4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))

    def loss(w, x):
        return skip_conv2d(x.unsqueeze(0), w, None, geometry.flat(), DENSE).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
    assert_close(got, torch.stack([torch.func.grad(loss)(w, one) for one in x]), **EXACT)


def samples(limits, dtype, last):
    """Each op with arguments of one dtype and layout."""
    given = {"dtype": dtype, "last": last}
    x, w = sparse(2, 5, 4, 5, **given).requires_grad_(), sparse(6, 5, 3, 2, **given).requires_grad_()
    y, bias = sparse(2, 6, *UNEVEN.output, **given).requires_grad_(), torch.randn(6, dtype=dtype, requires_grad=True)
    even = Geometry.of((4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    w33, y33 = sparse(6, 5, 3, 3, **given).requires_grad_(), sparse(2, 6, 4, 5, **given).requires_grad_()
    ops = torch.ops.thrifty
    for geometry, kernel, out in ((UNEVEN, w, y), (even, w33, y33)):
        yield ops.skip_conv2d, (x, kernel, bias, geometry.flat(), limits)
        yield ops.skip_conv2d, (x, kernel, None, geometry.flat(), limits)
        yield ops.skip_conv2d_input, (out, kernel, geometry.flat(), limits)
        yield ops.skip_conv2d_weight, (out, x, geometry.flat(), limits)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("limits, dtype", [(SKIP, torch.float32), (DENSE, torch.float32), (DENSE, torch.float64)])
def test_opcheck(index, limits, dtype, last):
    op, args = list(samples(limits, dtype, last))[index]
    torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("limits", [SKIP, DENSE])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_values_and_gradients(compiler, limits):
    torch._dynamo.reset()
    geometry = Geometry.of((8, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x = sparse(2, 16, 8, 8, dtype=torch.float32)
    w, bias = sparse(16, 16, 3, 3, density=1, dtype=torch.float32), torch.randn(16)

    def f(x, w, bias):
        return skip_conv2d(x.relu(), w, bias, geometry.flat(), limits).tanh()

    found = []
    for run in (f, torch.compile(f, backend=compiler, fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        y = run(*leaves)
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert_close(found[0], found[1])
    torch._dynamo.reset()


@needs_native
def test_the_limits_choose_the_route_of_each_direction_and_a_listener_is_told():
    geometry = Geometry.of((8, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x, w = sparse(2, 16, 8, 8, density=0.3, dtype=torch.float32), sparse(16, 16, 3, 3, dtype=torch.float32)
    y = sparse(2, 16, 8, 8, density=0.1, dtype=torch.float32)
    shares = share_of_nonzeros(x), share_of_nonzeros(y)
    for at, direction, run in (
        (0, "forward", lambda limits: skip_conv2d(x, w, None, geometry.flat(), limits)),
        (1, "backward", lambda limits: skip_conv2d_input(y, w, geometry.flat(), limits)),
        (1, "backward", lambda limits: skip_conv2d_weight(y, x, geometry.flat(), limits)),
    ):
        found = []
        for limit in (shares[at], shares[at] - 1e-6):
            limits = [0.0, 0.0]
            limits[at] = limit
            sink = _stages.StageSeconds()
            with _stages.report_to(sink):
                found.append(run(limits))
            route = sink.routes[direction]
            assert list(sink.routes) == [direction] and set(sink) == {"conv"}
            assert route.share == shares[at] and route.skipped == (limit == shares[at]) and route.seconds > 0
        assert_close(*found, **ROUNDED)


@needs_native
def test_the_reference_backend_never_skips():
    geometry = Geometry.of((8, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x, w = sparse(2, 16, 8, 8, dtype=torch.float32), sparse(16, 16, 3, 3, dtype=torch.float32)
    sink = _stages.StageSeconds()
    with backend("reference"), _stages.report_to(sink):
        y = skip_conv2d(x, w, None, geometry.flat(), SKIP)
    assert torch.equal(y, F.conv2d(x, w, padding=1))
    assert not sink.routes["forward"].skipped


def test_without_zeros_around_and_without_a_limit_it_is_torch_to_the_bit():
    x, w, bias = torch.randn(2, 16, 9, 9), torch.randn(8, 16, 3, 3), torch.randn(8)
    geometry = Geometry.of((9, 9), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert torch.equal(skip_conv2d(x, w, bias, geometry.flat(), DENSE), F.conv2d(x, w, bias, 2, 1))


@pytest.mark.parametrize("name", ["reference"] + (["native"] if native is not None else []))
def test_the_share_of_nonzeros(name):
    with backend(name):
        assert share_of_nonzeros(torch.zeros(0, 3, 4, 4)) == 0.0
        assert share_of_nonzeros(torch.zeros(2, 3, 4, 4)) == 0.0
        assert share_of_nonzeros(torch.full((2, 3, 4, 4), torch.nan)) == 1.0
        x = torch.zeros(2, 3, 4, 4)
        x[0, 1] = 1.0
        for layout in (torch.contiguous_format, torch.channels_last):
            assert share_of_nonzeros(x.contiguous(memory_format=layout)) == pytest.approx(16 / 96)
        many = torch.zeros(9, 2, 41, 41)  # more pixels than are looked at
        many[:, 0] = 1.0
        assert share_of_nonzeros(many) == 0.5
        many = (torch.rand(9, 20, 61, 61) < 0.25).float()
        assert share_of_nonzeros(many) == pytest.approx(0.25, abs=0.01)


@needs_native
def test_both_ways_of_telling_the_share_agree():
    for shape in ((1, 1, 1, 1), (3, 5, 7, 2), (2, 17, 70, 71)):
        x = sparse(*shape, density=0.3, dtype=torch.float32)
        with backend("reference"):
            wanted = share_of_nonzeros(x)
        assert share_of_nonzeros(x) == wanted


PLAIN = Geometry.of((4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)).flat()


def t(*shape):
    return torch.ones(shape)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: skip_conv2d(t(2, 3, 4, 5), t(6, 3, 3, 3), None, PLAIN, SKIP), "x of .* does not fit"),
        (lambda: skip_conv2d(t(3, 4, 4), t(6, 3, 3, 3), None, PLAIN, SKIP), "x of .* does not fit"),
        (lambda: skip_conv2d(t(2, 3, 4, 4), t(6, 3, 3, 2), None, PLAIN, SKIP), "w of .* does not fit"),
        (lambda: skip_conv2d(t(2, 3, 4, 4), t(6, 2, 3, 3), None, PLAIN, SKIP), "x has 3 channels, w expects 2"),
        (lambda: skip_conv2d(t(2, 3, 4, 4), t(6, 3, 3, 3), t(5), PLAIN, SKIP), "bias of .* for 6 outputs"),
        (lambda: skip_conv2d(t(2, 3, 4, 4), t(6, 3, 3, 3), None, PLAIN, [1.0]), "expected 2 limits, got 1"),
        (lambda: skip_conv2d(t(2, 3, 4, 4), t(6, 3, 3, 3), None, PLAIN[:-1], SKIP), "expected 12 numbers, got 11"),
        (lambda: skip_conv2d_input(t(2, 6, 4, 5), t(6, 3, 3, 3), PLAIN, SKIP), "y of .* does not fit"),
        (lambda: skip_conv2d_input(t(2, 5, 4, 4), t(6, 3, 3, 3), PLAIN, SKIP), "y has 5 channels, w makes 6"),
        (lambda: skip_conv2d_weight(t(2, 6, 4, 4), t(2, 3, 5, 4), PLAIN, SKIP), "x of .* does not fit"),
        (lambda: skip_conv2d_weight(t(2, 6, 4, 4), t(3, 3, 4, 4), PLAIN, SKIP), "y has 2 images, x has 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@needs_native
def test_a_bias_of_another_dtype_is_refused_as_torch_refuses_it():
    with pytest.raises(RuntimeError, match=r"[Bb]ias|dtype|type"):
        skip_conv2d(t(2, 3, 4, 4), t(6, 3, 3, 3), t(6).double(), PLAIN, SKIP)
