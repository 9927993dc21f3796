"""Profiles of models on the meta device: names, sizes and order are autograd's, times those of the roofline."""

import pytest
import torch
from merging import Branches
from torch import nn

from thrifty import models
from thrifty.core.errors import ModelError
from thrifty.distributed.trace import P40, Roofline, meta, trace_profile

EVEN = Roofline("even", flops=1.0, bytes_per_s=1e30)


def test_order_and_first_use_are_those_of_the_graph():
    with torch.device("meta"):
        model = Branches()
    profile = trace_profile(model, [meta(8, 10)])
    owners = list(dict.fromkeys(name.partition(".")[0] for name in profile.names))
    assert owners == ["last", "middle", "first"]
    needed = dict(zip(profile.names, profile.needed_s, strict=True))
    assert needed["first.weight"] < needed["middle.0.weight"] < needed["last.weight"]


def test_order_is_that_of_the_live_model():
    torch.manual_seed(0)
    live = models.build("resnet50", num_classes=10, image_size=32)
    seen = []
    for name, parameter in live.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    live(torch.randn(2, 3, 32, 32)).sum().backward()
    with torch.device("meta"):
        traced = models.build("resnet50", num_classes=10, image_size=32)
    profile = trace_profile(traced, [meta(2, 3, 32, 32)])
    assert list(profile.names) == seen
    assert profile.total_bytes == sum(4 * parameter.numel() for parameter in live.parameters())


def test_times_are_those_of_the_multiply_adds():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    profile = trace_profile(model, [meta(3, 10)], EVEN)
    first, second = 2 * 3 * 10 * 20, 2 * 3 * 20 * 5
    assert profile.forward_s == pytest.approx(first + second)
    assert profile.names == ("1.weight", "0.weight")
    # The input's gradient of the second layer may come before or after its weight's.
    assert profile.ready_s[1] == pytest.approx(first + 2 * second)
    assert profile.backward_s == pytest.approx(first + 2 * second)
    assert profile.needed_s == pytest.approx((first, 0.0), abs=1e-9)


def test_bytes_count_where_they_take_longer():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    slow = trace_profile(model, [meta(2, 4)], Roofline("slow memory", flops=1e30, bytes_per_s=1.0))
    # forward: input 8, weight 16, bias 4 read, result 8 written, then the sum reads 8 and writes 1
    assert slow.forward_s == pytest.approx(4 * (8 + 16 + 4 + 8 + 8 + 1))


def test_resnet50_on_a_p40_is_as_fast_as_published():
    with torch.device("meta"):
        model = models.build("resnet50", num_classes=1000, image_size=224)
    profile = trace_profile(model, [meta(32, 3, 224, 224)], P40)
    assert len(profile.names) == 161 and profile.total_bytes == 4 * 25_557_032
    assert 32 / profile.compute_s == pytest.approx(142 / 0.879, rel=0.03)


def test_scaling_to_a_measured_step_and_to_sixteen_bits():
    with torch.device("meta"):
        model = Branches()
    profile = trace_profile(model, [meta(8, 10)])
    scaled = profile.taking(0.2)
    assert scaled.compute_s == pytest.approx(0.2)
    assert scaled.sent_as(2).total_bytes * 2 == profile.total_bytes


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.Linear(4, 4), "on the meta device"),
        (lambda: nn.ReLU(), "some of them trained"),
        (lambda: nn.Linear(4, 4, device="meta").requires_grad_(False), "some of them trained"),
        (lambda: Half(), "spare gets no gradient"),
    ],
)
def test_models_that_cannot_be_traced(make, message):
    with pytest.raises(ModelError, match=message):
        trace_profile(make(), [meta(2, 4)])


class Half(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4, device="meta")
        self.spare = nn.Parameter(meta(3))
