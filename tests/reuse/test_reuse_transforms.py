"""torch.func, forward mode, torch.compile and checkpointing through the layer: right, or a clear error; never zeros."""

import copy

import pytest
import torch
import torch.autograd.forward_ad as fwad
from reuse_layers import ENCODERS, changed, expected
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

EXACT = {"rtol": 1e-9, "atol": 1e-9}
LAYERS = {
    "pixels": (lambda: nn.Conv2d(6, 4, 3, padding=1, stride=2, dtype=torch.float64), {}),
    "patches": (lambda: nn.Conv2d(6, 4, 2, padding=1, dtype=torch.float64), {"pieces": "patches"}),
    "linear": (lambda: nn.Linear(6, 4, dtype=torch.float64), {}),
    "codebook": (lambda: nn.Conv2d(6, 4, 3, padding=1, dtype=torch.float64), {"encoder": "codebook"}),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    build, settings = LAYERS[request.param]
    return changed(build(), **settings)


@pytest.fixture
def x(layer):
    shape = (2, 5, 6) if isinstance(layer, nn.Linear) else (2, 6, 4, 4)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer(x)  # an ordinary step comes first: it makes the codebook
    return x


def parameters(layer):
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def tangents(tree):
    return {name: torch.randn_like(value) for name, value in tree.items()}


def test_grad_of_functional_call(layer, x):
    def loss(of, x):
        return functional_call(layer, of, (x,)).square().sum()

    ours, to_x = torch.func.grad(loss, argnums=(0, 1))(parameters(layer), x)
    leaf = x.clone().requires_grad_()
    wanted = torch.autograd.grad(expected(layer, leaf).square().sum(), [leaf, *layer.parameters()])
    assert_close([to_x, *ours.values()], list(wanted), **EXACT)


def test_jvp_agrees_with_the_oracle(layer, x):
    of, of_t, x_t = parameters(layer), tangents(parameters(layer)), torch.randn_like(x)
    y, y_t = torch.func.jvp(lambda p, x: functional_call(layer, p, (x,)), (of, x), (of_t, x_t))
    leaf = x.clone().requires_grad_()
    wanted, leaves = expected(layer, leaf), [leaf, *layer.parameters()]
    assert_close(y, wanted.detach(), **EXACT)
    directions = [x_t, *of_t.values()]
    for cotangent in (torch.randn_like(y), torch.ones_like(y)):
        gradients = torch.autograd.grad(wanted, leaves, cotangent, retain_graph=True)
        inner = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        assert_close((y_t * cotangent).sum(), inner, **EXACT)


def test_forward_mode_with_dual_tensors(layer, x):
    x_t = torch.randn_like(x)
    with fwad.dual_level():
        y = layer(fwad.make_dual(x, x_t))
        y_t = fwad.unpack_dual(y).tangent
    wanted = torch.func.jvp(lambda x: layer(x), (x,), (x_t,))[1]
    assert y_t is not None and y_t.abs().max() > 0
    assert_close(y_t, wanted, **EXACT)


def test_hessian(layer, x):
    def loss(weight):
        return functional_call(layer, {"weight": weight}, (x,)).sin().sum()

    weight = layer.weight.detach()
    hessian = torch.func.hessian(loss)(weight).reshape(weight.numel(), -1)
    jacobian = expected_jacobian(layer, x)
    assert hessian.abs().max() > 0
    assert_close(hessian, -(jacobian.T * layer(x).detach().reshape(-1).sin()) @ jacobian, rtol=1e-8, atol=1e-8)


def expected_jacobian(layer, x):
    """(outputs, weights): the answer is linear in the weight."""
    y = expected(layer, x).reshape(-1)
    return torch.stack([torch.autograd.grad(one, layer.weight, retain_graph=True)[0].reshape(-1) for one in y])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_first_call_under_a_transform_leaves_nothing_behind(encoder):
    """What the layer keeps must not belong to the transform."""
    layer, x = changed(nn.Conv2d(6, 4, 3, padding=1), encoder=encoder), torch.randn(2, 6, 4, 4)
    torch.func.hessian(lambda weight: functional_call(layer, {"weight": weight}, (x,)).sum())(layer.weight.detach())
    layer.reuse.learn()
    copy.deepcopy(layer)
    y = layer(x)
    assert_close(y, expected(layer, x), rtol=1e-4, atol=1e-5)


def test_vmap_over_the_batch_says_why_not(layer, x):
    with pytest.raises(RuntimeError, match=r"number of clusters differs from sample to sample; call thrifty\.remove_"):
        torch.func.vmap(layer)(torch.stack([x, x]))


def test_vmap_over_weights_works(layer, x):
    weights = torch.randn(3, *layer.weight.shape, dtype=torch.float64)

    def answer(weight):
        return functional_call(layer, {"weight": weight}, (x,))

    wanted = torch.stack([answer(weight) for weight in weights])
    assert_close(torch.func.vmap(answer)(weights), wanted, **EXACT)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_checkpointing_gives_equal_gradients(reentrant, encoder):
    torch.manual_seed(0)
    first, second = (changed(nn.Conv2d(6, 6, 3, padding=1), encoder=encoder) for _ in range(2))
    model = nn.Sequential(first, nn.ReLU(), second)
    answers = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        x = torch.ones(2, 6, 5, 5).cumsum(-1).sin().requires_grad_()
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        answers.append([y.detach(), x.grad, *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
class TestCompiled:
    """Compiled by the eager backend: what is tested is how the graph is cut around the layer, not the code made."""

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.fixture(params=ENCODERS)
    def model(self, request):
        torch.manual_seed(0)
        layer = changed(nn.Conv2d(6, 4, 3, padding=1), encoder=request.param)
        return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), layer, nn.Tanh())

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_values_and_gradients(self, model, backend):
        compiled, x = torch.compile(model, backend=backend), torch.randn(2, 3, 5, 5)
        answers = []
        for run in (model, compiled):
            leaf = x.clone().requires_grad_()
            y = run(leaf)
            answers.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *model.parameters()])])
        assert_close(answers[0], answers[1])
        assert model[2].counters.steps == 2

    def test_counting_does_not_compile_again(self, model):
        counter = CompileCounter()
        compiled = torch.compile(model, backend=counter)
        for stage in (0, 1):
            model[2].reuse.stage_index = stage
            compiled(torch.randn(2, 3, 5, 5))
            compiled(torch.randn(2, 3, 5, 5))
            frames = counter.frame_count
            for _ in range(4):
                compiled(torch.randn(2, 3, 5, 5))
            assert counter.frame_count == frames
        assert model[2].counters.steps == 12

    def test_moving_to_another_stage_is_noticed(self, model):
        compiled, x = torch.compile(model, backend="eager"), torch.randn(2, 3, 5, 5)
        compiled(x)
        model[2].reuse.stage_index = 1
        model[2].counters.reset()
        dense = compiled(x)
        assert model[2].counters.macs == model[2].counters.dense_macs > 0
        assert_close(dense, model.eval()(x))

    def test_evaluation_is_compiled_whole(self, model):
        counter = torch._dynamo.testing.CompileCounter()
        x = torch.randn(2, 3, 5, 5)
        assert_close(torch.compile(model.eval(), backend=counter, fullgraph=True)(x), model(x))
        assert counter.frame_count == 1

    def test_forward_mode_is_right_or_refused(self, model):
        compiled, x, x_t = torch.compile(model, backend="eager"), torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
        model(x)
        wanted = torch.func.jvp(model, (x,), (x_t,))[1]
        assert wanted.abs().max() > 0
        assert_close(torch.func.jvp(compiled, (x,), (x_t,))[1], wanted)
        with fwad.dual_level():
            tangent = fwad.unpack_dual(compiled(fwad.make_dual(x, x_t))).tangent
            assert tangent is not None
            assert_close(tangent, wanted)

    def test_torch_func_inside_the_compiled_function(self, model):
        x, x_t = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)

        def directional(x, x_t):
            return torch.func.jvp(model, (x,), (x_t,))[1]

        assert_close(torch.compile(directional, backend="eager")(x, x_t), directional(x, x_t))
