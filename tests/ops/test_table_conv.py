"""Levels and looked-up convolutions: native against reference at every instruction set, and against torch itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.testing import assert_close

from thrifty._load_native import native
from thrifty.ops._backend import backend
from thrifty.ops.geometry import Geometry
from thrifty.ops.level_codes import level_codes
from thrifty.ops.table_conv import INT16, pack_table, table_conv

needs_native = pytest.mark.skipif(native is None, reason="the native kernels are not built here")
ISAS = ["reference"] if native is None else ["reference", *native.isas()]
on_every_isa = pytest.mark.parametrize("isa", ISAS)


def on(isa, call):
    """Call on the reference or on one instruction set, and set the one before again."""
    if isa == "reference":
        with backend("reference"):
            return call()
    before = native.isa()
    native.set_isa(isa)
    try:
        return call()
    finally:
        native.set_isa(before)


def identity(size):
    return Geometry.of(size, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))


@on_every_isa
def test_levels_count_the_thresholds_below_and_share_a_byte(isa):
    x = torch.tensor([[0.0, 5.0, 1.0], [0.5, 0.4, 9.0], [0.6, -1.0, 2.5]])
    thresholds = torch.tensor([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    levels = [[0, 3, 1], [0, 0, 3], [1, 0, 3]]
    codes, bad = on(isa, lambda: level_codes(x, thresholds, 1, 2))
    assert codes.tolist() == levels and bad.item() == 0
    codes, _ = on(isa, lambda: level_codes(x, thresholds, 2, 2))
    assert codes.tolist() == [[a + 4 * b, c] for a, b, c in levels]


@on_every_isa
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (36, 2), (70, 4)])
def test_values_that_are_not_finite_are_told(isa, value, place):
    x = torch.randn(71, 5)
    thresholds = torch.zeros(1, 5)
    assert on(isa, lambda: level_codes(x, thresholds, 1, 1))[1].item() == 0
    x[place] = value
    codes, bad = on(isa, lambda: level_codes(x, thresholds, 1, 1))
    assert bad.item() == 1 and codes[place].item() == int(value > 0)


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 140), channels=st.integers(1, 40),
    piece=st.sampled_from([(1, 1), (1, 8), (2, 3), (3, 2), (8, 1)]), seed=st.integers(0, 99),
    isa=st.sampled_from(ISAS[1:]),
)  # fmt: skip
def test_native_levels_are_the_reference_exactly(rows, channels, piece, seed, isa):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator)
    thresholds = torch.randn(2 ** piece[1] - 1, channels, generator=generator).sort(0).values
    ours = on(isa, lambda: level_codes(x, thresholds, *piece))
    theirs = on("reference", lambda: level_codes(x, thresholds, *piece))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def problem(images, groups, entries, outputs, geometry, skip, seed, size=300):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(-size, size, (geometry.taps, groups, entries, outputs), generator=generator).to(torch.int16)
    if skip:
        table[:, :, 0] = 0
    pixels = images * geometry.input[0] * geometry.input[1]
    codes = torch.randint(entries, (pixels, groups), generator=generator, dtype=torch.uint8)
    scale = torch.rand(outputs, generator=generator) + 0.1
    return table, scale, torch.randn(outputs, generator=generator), codes


@needs_native
@settings(max_examples=120, deadline=None)
@given(
    images=st.integers(0, 5), groups=st.integers(1, 9), entries=st.sampled_from([1, 4, 64, 256]),
    outputs=st.sampled_from([1, 31, 33, 64, 97, 130, 200]), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 4), dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pool=st.sampled_from([(1, 1, 0), (2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1)]), skip=st.booleans(),
    relu=st.booleans(), widest=st.sampled_from([32, 64, 128]), seed=st.integers(0, 99), isa=st.sampled_from(ISAS[1:]),
)  # fmt: skip
def test_native_lookups_are_the_reference(
    images, groups, entries, outputs, size, kernel, stride, padding, dilation, pool, skip, relu, widest, seed, isa
):
    try:
        geometry = Geometry.of(size, kernel, stride, (padding,) * 4, dilation)
        windows = Geometry.of(geometry.output, (pool[0],) * 2, (pool[1],) * 2, (pool[2],) * 4, (1, 1))
    except ValueError:
        return  # no such convolution
    table, scale, bias, codes = problem(images, groups, entries, outputs, geometry, skip, seed)
    call = lambda: table_conv(  # noqa: E731
        pack_table(table, widest), scale, bias, codes, geometry.flat(), windows.flat(), skip, relu
    )
    ours, theirs = on(isa, call), on("reference", call)
    assert ours.shape == theirs.shape == (images, *windows.output, outputs)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


@on_every_isa
@pytest.mark.parametrize("skip", [False, True])
def test_looking_up_is_the_convolution_of_the_values_that_the_codes_stand_for(isa, skip):
    torch.manual_seed(0)
    x = torch.randint(0, 4, (2, 5, 7, 6)).float()  # its own level
    weight = torch.randint(-20, 20, (8, 5, 3, 3)).float()
    geometry = Geometry.of((7, 6), (3, 3), (2, 1), (1, 1, 1, 1), (1, 1))
    table = torch.einsum("mcr,e->rcem", weight.flatten(2), torch.arange(4.0)).to(torch.int16)
    codes = x.permute(0, 2, 3, 1).reshape(-1, 5).to(torch.uint8)
    bias = torch.randn(8)
    windows = Geometry.of(geometry.output, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    y = on(
        isa,
        lambda: table_conv(pack_table(table), torch.ones(8), bias, codes, geometry.flat(), windows.flat(), skip, True),
    )
    expected = functional.max_pool2d(functional.conv2d(x, weight, bias, (2, 1), 1).relu(), 2)
    assert_close(y.permute(0, 3, 1, 2), expected)


@on_every_isa
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_saturate_instead_of_wrapping_round(isa, sign):
    table = torch.full((1, 4, 2, 3), sign * 30_000, dtype=torch.int16)
    point = identity((1, 1)).flat()
    codes = torch.ones(2, 4, dtype=torch.uint8)
    y = on(isa, lambda: table_conv(pack_table(table), torch.ones(3), torch.zeros(3), codes, point, point, False, False))
    assert (y == (INT16.max if sign > 0 else INT16.min)).all()


@needs_native
@pytest.mark.parametrize("skip", [False, True])
def test_threads_share_the_lines_of_one_image(skip):
    geometry = Geometry.of((9, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    windows = Geometry.of(geometry.output, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    table, scale, bias, codes = problem(1, 6, 16, 70, geometry, skip, 1)
    args = (pack_table(table), scale, bias, codes, geometry.flat(), windows.flat(), skip, True)
    one = table_conv(*args)
    torch.set_num_threads(3)
    try:
        assert torch.equal(table_conv(*args), one)
    finally:
        torch.set_num_threads(1)


def test_opcheck():
    geometry = Geometry.of((3, 4), (2, 2), (1, 1), (1, 1, 0, 0), (1, 1))
    table, scale, bias, codes = problem(2, 3, 4, 6, geometry, False, 0)
    args = (pack_table(table), scale, bias, codes, geometry.flat(), identity(geometry.output).flat(), True, True)
    torch.library.opcheck(torch.ops.thrifty.table_conv.default, args)
    torch.library.opcheck(torch.ops.thrifty.level_codes.default, (torch.randn(9, 5), torch.zeros(3, 5), 2, 2))


def test_bad_input_is_refused():
    geometry = Geometry.of((3, 4), (2, 2), (1, 1), (1, 1, 0, 0), (1, 1))
    table, scale, bias, codes = problem(2, 3, 4, 6, geometry, False, 0)
    packed, flat, same = pack_table(table), geometry.flat(), identity(geometry.output).flat()
    with pytest.raises(ValueError, match="codes must be uint8"):
        table_conv(packed, scale, bias, codes.int(), flat, same, False, False)
    with pytest.raises(ValueError, match="whole images"):
        table_conv(packed, scale, bias, codes[1:], flat, same, False, False)
    with pytest.raises(ValueError, match="does not fit"):
        table_conv(packed.float(), scale, bias, codes, flat, same, False, False)
    with pytest.raises(ValueError, match="does not fit"):
        table_conv(packed, scale, bias[1:], codes, flat, same, False, False)
    with pytest.raises(ValueError, match="a pool of"):
        table_conv(packed, scale, bias, codes, flat, flat, False, False)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        level_codes(torch.randn(4, 6), torch.zeros(7, 6), 3, 3)
    with pytest.raises(ValueError, match="do not belong together"):
        level_codes(torch.randn(4, 6), torch.zeros(3, 5), 1, 2)
