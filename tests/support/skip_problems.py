"""Convolutions of any shape over values with zeros, for the tests of the skipping ops."""

import torch
from hypothesis import strategies as st

from thrifty.ops.geometry import Geometry

SKIP, DENSE = [1.0, 1.0], [0.0, 0.0]
"""Limits under which the nonzeros always multiply alone, and never where there are any."""


def sparse(*shape, density=0.4, dtype=torch.float64, source=None, last=True):
    """Normal values of which about `density` are not zero; channels_last unless told otherwise."""
    values = torch.randn(*shape, generator=source, dtype=torch.float64)
    values = values * (torch.rand(*shape, generator=source) < density)
    values = values.to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else values


@st.composite
def problems(draw, symmetric=False):
    """The shape, padding and density of a convolution; unless symmetric, each side has a padding of its own."""
    kernel, dilation, stride = (
        draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (4, 3, 3)
    )  # fmt: skip
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    if symmetric:
        padding = (padding[0], padding[0], padding[2], padding[2])
    room = [
        max(1, dilation[i] * (kernel[i] - 1) + 1 - padding[2 * i] - padding[2 * i + 1]) for i in range(2)
    ]  # fmt: skip
    size = tuple(draw(st.integers(room[i], room[i] + 6)) for i in range(2))
    return {
        "geometry": Geometry.of(size, kernel, stride, padding, dilation),
        "batch": draw(st.integers(0, 3)),
        "channels": draw(st.sampled_from([1, 2, 5, 16, 19, 60])),
        "outputs": draw(st.sampled_from([1, 3, 17, 40])),
        "density": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        "bias": draw(st.booleans()),
        "last": draw(st.booleans()),
        "seed": draw(st.integers(0, 10_000)),
    }


def make(problem, dtype):
    """x, w, bias or None, and a cotangent of the convolution's output with as many zeros as x."""
    source = torch.Generator().manual_seed(problem["seed"])
    geometry, channels, outputs = problem["geometry"], problem["channels"], problem["outputs"]
    given = {"dtype": dtype, "source": source, "last": problem["last"]}
    x = sparse(problem["batch"], channels, *geometry.input, density=problem["density"], **given)
    w = sparse(outputs, channels, *geometry.kernel, density=1.0, **given)
    bias = sparse(outputs, density=1.0, dtype=dtype, source=source) if problem["bias"] else None
    y = sparse(problem["batch"], outputs, *geometry.output, density=problem["density"], **given)
    return x, w, bias, y
