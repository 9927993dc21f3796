"""Applied.suspend and resume: the stock layers for a while, and the methods where they were."""

import gc

import pytest
import torch
from torch import nn

from thrifty import Reuse
from thrifty.compose import apply_
from thrifty.core.errors import ModelError


def types(model):
    return [type(module) for module in model.modules()]


def test_the_stock_layers_come_and_go(net, twin, counting):
    applied = apply_(net, [counting(move_every=2)])
    changed = list(net.modules())
    x = torch.randn(2, 3, 6, 6)
    net(x)
    applied.suspend()
    assert applied.suspended
    assert types(net) == types(twin)
    assert torch.equal(net(x), twin(x))
    applied.suspend()  # once is enough
    assert applied.counters()["0"].steps == 1
    applied.resume()
    assert not applied.suspended
    assert all(a is b for a, b in zip(net.modules(), changed, strict=True))
    net(x)
    applied.resume()
    assert applied.counters()["0"].steps == 2
    assert [event.what for _ in range(2) for event in applied.step(1.0)] == ["stage 0 -> 1"]


def test_parameters_hooks_and_modes_are_the_same_throughout(net, counting):
    applied = apply_(net, [counting()])
    parameters, seen = list(net.parameters()), []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    applied.suspend()
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    net.eval()
    net(torch.zeros(1, 3, 6, 6))
    applied.resume()
    assert not any(module.training for module in net.modules())
    net(torch.zeros(1, 3, 6, 6))
    assert len(seen) == 2


def test_containers_are_stock_while_suspended():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
    applied = apply_(net, [Reuse()])
    own = type(net)
    assert own is not nn.Sequential
    applied.suspend()
    assert type(net) is nn.Sequential
    applied.resume()
    assert type(net) is own


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_was_compiled_since_is_refused(net, counting):
    applied = apply_(net, [counting()])
    net.compile()
    with pytest.raises(ModelError, match=r"compiled: call Applied\.suspend"):
        applied.suspend()


def test_the_handle_does_not_keep_the_model_alive(net, counting):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    applied = apply_(model, [counting()])
    del model
    gc.collect()
    applied.suspend()  # nothing to put back
    assert not applied.suspended
