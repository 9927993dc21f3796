"""On the CPU in float32 the kernel does the work, and not the reference; what is counted of it is counted right."""

import pytest
import torch

from thrifty._load_native import native, reason
from thrifty.ops import group_codes, min_hash, nearest_centroid, sim_hash, skip_conv2d
from thrifty.ops._backend import backend
from thrifty.ops.geometry import Geometry

ROWS, PLANES = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3)
CALLS = {
    "group_codes": (group_codes, lambda: group_codes.group_codes(torch.zeros(2, 5, dtype=torch.int32), 5)),
    "min_hash": (min_hash, lambda: min_hash.min_hash(torch.tensor([0, 2, 3]), torch.tensor([4, 5, 6]), 2, 2, 3, 0)),
    "nearest_centroid": (nearest_centroid, lambda: nearest_centroid.nearest_centroid(ROWS, torch.rand(2, 4, 3))),
    "probe_signs": (sim_hash, lambda: sim_hash.probe_codes(ROWS, PLANES, 2)),
    "count_nonzeros": (skip_conv2d, lambda: skip_conv2d.share_of_nonzeros(torch.ones(2, 3, 4, 4))),
}


class Spy:
    def __init__(self):
        self.called = []

    def __getattr__(self, name):
        self.called.append(name)
        return getattr(native, name)


@pytest.mark.skipif(native is None, reason=f"native kernels: {reason}")
@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_is_called_unless_the_reference_is_asked_for(name, monkeypatch):
    module, call = CALLS[name]
    spy = Spy()
    monkeypatch.setattr(module, "native", spy)
    call()
    assert spy.called == [name]
    with backend("reference"):
        call()
    assert spy.called == [name]


@pytest.mark.parametrize("shape", [(6,), (2, 6, 6)])
def test_pixels_are_rows(shape):
    with pytest.raises(ValueError, match="do not belong together"):
        nearest_centroid.nearest_centroid(torch.rand(shape), torch.rand(2, 4, 3))


def test_macs_are_those_of_a_convolution():
    shape = Geometry.of((5, 7), (3, 2), (2, 1), (1, 1, 0, 0), (1, 1))
    y = torch.nn.functional.conv2d(torch.ones(1, 1, 5, 7), torch.ones(1, 1, 3, 2), stride=(2, 1), padding=(1, 0))
    assert tuple(shape.output) == tuple(y.shape[2:])
    assert skip_conv2d.dense_macs(shape, 4, 3, 8) == 4 * y[0, 0].numel() * 6 * 3 * 8
