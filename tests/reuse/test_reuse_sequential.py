"""Convolution, ReLU and pool as one step inside nn.Sequential: the same training, the same model afterwards."""

import copy
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import thrifty
from thrifty._load_native import native, reason
from thrifty.reuse import Reuse, Stage
from thrifty.reuse.sequential import ReuseSequential

pytestmark = pytest.mark.skipif(native is None, reason=f"native kernels: {reason}")

NEVER, ALWAYS = [-1.0, -1.0], [2.0, 2.0]


def network(seed=0, **pool):
    torch.manual_seed(seed)
    pooling = {"kernel_size": 3, "stride": 2, "padding": 1, **pool}
    layers: list[nn.Module] = [
        nn.Conv2d(3, 20, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(**pooling),
        nn.Conv2d(20, 12, 3, stride=2), nn.ReLU(), nn.Flatten(),
    ]  # fmt: skip
    width = nn.Sequential(*layers)(torch.zeros(1, 3, 17, 15)).shape[1]
    return nn.Sequential(*layers, nn.Linear(width, 4)).to(memory_format=torch.channels_last)


def batch(step):
    torch.manual_seed(100 + step)
    return torch.randn(6, 3, 17, 15).to(memory_format=torch.channels_last), torch.randint(4, (6,))


def changed(model, limits=None, **settings):
    applied = thrifty.apply_(model, [Reuse(**{"measure": False, **settings})])
    if limits is not None:
        for layer in model:
            if hasattr(layer, "reuse"):
                layer.reuse.limits = limits
    return applied


def train(model, steps=5, applied=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if applied:
            applied.step(loss)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("limits", [None, NEVER, ALWAYS], ids=["default", "dense", "skip"])
@pytest.mark.parametrize("pool", [{}, {"kernel_size": 2, "padding": 0}, {"ceil_mode": True}, {"dilation": 2}])
def test_training_is_that_of_the_stock_layers(limits, pool):
    stock, model = network(**pool), network(**pool)
    changed(model, limits)
    assert_close(torch.tensor(train(model)), torch.tensor(train(stock)), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.parameters(), stock.parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_backward_pass_goes_by_nonzeros():
    model = network()
    changed(model, ALWAYS)
    train(model, 1)
    routes = model[0].reuse.seconds.routes
    assert routes["backward"].skipped and 0 < routes["backward"].share < 0.3
    assert model[0].counters.macs < model[0].counters.dense_macs


def test_the_container_changes_in_place_and_back():
    model = network()
    keys = list(model.state_dict())
    changed(model)
    assert type(model) is ReuseSequential and type(model[1]) is nn.ReLU
    assert list(model.state_dict()) == keys
    x = batch(0)[0]
    assert torch.equal(model[:3](x), model[2](model[1](model[0](x))))
    thrifty.remove_(model)
    assert type(model) is nn.Sequential and type(model[0]) is nn.Conv2d


def test_a_container_inside_a_model_changes_and_others_stay():
    inner, other = network(), nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model = nn.ModuleDict({"inner": inner, "other": other})
    changed(model)
    assert type(inner) is ReuseSequential and type(other) is nn.Sequential
    thrifty.remove_(model)
    assert type(inner) is nn.Sequential


def test_copies_and_pickles_work_on_their_own():
    model = network()
    changed(model)
    x = batch(1)[0]
    wanted = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), wanted)
        assert twin[0].counters.steps == 2 and model[0].counters.steps == 1


def test_hooks_see_what_they_saw_before():
    stock, model = network(), network()
    changed(model, ALWAYS)
    seen = {}
    for name, net in (("stock", stock), ("ours", model)):
        seen[name] = []
        net[1].register_forward_hook(lambda module, args, out, to=seen[name]: to.append(out.detach().clone()))
    assert_close(model(batch(0)[0]), stock(batch(0)[0]), rtol=1e-5, atol=1e-6)
    assert_close(seen["ours"], seen["stock"], rtol=1e-5, atol=1e-6)


def test_evaluation_is_the_stock_bits():
    stock, model = network().eval(), network()
    changed(model)
    x = batch(0)[0]
    assert torch.equal(model.eval()(x), stock(x))


def test_second_derivatives_are_those_of_the_stock_layers():
    def penalty(model):
        x, y = batch(2)
        x.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x), y), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), list(model.parameters()), allow_unused=True)

    stock, model = network(), network()
    changed(model, ALWAYS)
    for ours, theirs in zip(penalty(model), penalty(stock), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_transforms_take_the_layers_one_by_one():
    stock, model = network(), network()
    changed(model)
    x, direction = batch(0)[0], batch(1)[0]
    for net in (stock, model):
        net.wanted = torch.func.jvp(net, (x,), (direction,))[1]
        net.sample = torch.func.vmap(lambda one, net=net: net(one.unsqueeze(0)).squeeze(0))(x)
    assert_close(model.wanted, stock.wanted, rtol=1e-4, atol=1e-5)
    assert_close(model.sample, stock.sample, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_compiled_it_answers_the_same():
    model = network()
    changed(model)
    x = batch(0)[0]
    assert_close(torch.compile(model, backend="eager")(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limits", [NEVER, ALWAYS], ids=["dense", "skip"])
def test_autocast_trains_like_stock_autocast(limits):
    stock, model = network(), network()
    changed(model, limits)
    gradients = []
    for net in (stock, model):
        x, y = batch(0)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
            F.cross_entropy(out, y).backward()
        assert out.dtype == torch.bfloat16
        gradients.append([p.grad for p in net.parameters()])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.03 * theirs.norm() + 1e-4


def test_a_stage_of_clusters_has_its_forward_and_exact_gradients():
    settings = {"stages": (Stage(8, 3),), "fixed": True, "encoder": "sign", "pieces": "pixels"}
    exact, clusters, stock = network(), network(), network()
    changed(exact, gradients="exact", **settings)
    changed(clusters, gradients="clusters", **settings)
    x, y = batch(0)
    assert_close(exact(x), clusters(x), rtol=1e-5, atol=1e-6)
    assert not torch.equal(exact(x), stock(x))
    F.cross_entropy(exact(x), y).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in exact.parameters())
    assert exact[3].counters.error > 0


def test_nan_comes_through():
    model = network()
    changed(model, ALWAYS)
    x, y = batch(0)
    x[1, 0, 4, 4] = float("nan")
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert loss.isnan() and model[0].weight.grad.isnan().any()


def test_threads_that_share_a_layer_do_not_disturb_each_other():
    model = network()
    changed(model, ALWAYS)
    wanted = [model(batch(step)[0]).detach() for step in range(4)]
    got = [None] * 4

    inputs = [batch(step)[0] for step in range(4)]

    def run(step):
        for _ in range(5):
            got[step] = model(inputs[step]).detach()

    threads = [threading.Thread(target=run, args=(step,)) for step in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
