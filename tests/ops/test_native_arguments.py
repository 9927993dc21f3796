"""Every native function with every argument wrong in every way: TypeError or ValueError, and nothing written.

A function that is added to the module and not to the table below fails the last test.
"""

import lsh_arguments
import pytest
import torch

from thrifty._load_native import native, reason
from thrifty.ops.geometry import Geometry, Pool

pytestmark = pytest.mark.skipif(native is None, reason=f"native kernels: {reason}")

PIXELS, CHANNELS, LENGTH, GROUPS, BITS, CLUSTERS, TAPS, OUTPUTS = 24, 7, 4, 2, 3, 5, 4, 6
GEOMETRY = Geometry.of((3, 4), (2, 2), (1, 1), (1, 1, 0, 0), (1, 1)).flat()  # two images of 3x4, outputs of 4x3
IMAGES, HEIGHT, WIDTH = 2, 4, 3
POOL = Pool.of((HEIGHT, WIDTH), (2, 2), (2, 1), (0, 0)).flat()  # outputs of 2x2


def floats(*shape):
    return torch.full(shape, 0.5)


def bytes_(*shape):
    return torch.zeros(shape, dtype=torch.uint8)


def int32s(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def int64s(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def doubles(*shape):
    return torch.full(shape, -1.0, dtype=torch.float64)


def halves(*shape):
    """The bits of bfloat16."""
    return torch.full(shape, 0x3F00, dtype=torch.uint16)


def clusters():
    """Clusters that belong together, two of group 0 and three of group 1: ids, order, starts, offsets."""
    codes = torch.arange(GROUPS * PIXELS, dtype=torch.int32).view(GROUPS, PIXELS) % 12
    ids = torch.stack([(codes[0] >= 7).int(), 2 + codes[1] // 4])
    order = ids.argsort(dim=1, stable=True).int()
    counts = torch.bincount(ids.flatten(), minlength=CLUSTERS)
    return ids, order, torch.cat([int64s(1), counts.cumsum(0)]), torch.tensor([0, 2, 5])


def ids():
    return clusters()[0]


def order():
    return clusters()[1]


def starts():
    return clusters()[2]


def offsets():
    return clusters()[3]


# function -> makers of its arguments in order, and the positions of what it writes
TABLE = {
    "channel_moments": (
        [lambda: floats(PIXELS, CHANNELS), lambda: doubles(CHANNELS), lambda: doubles(CHANNELS)],
        (1, 2),
    ),
    "cluster_mean": (
        [lambda: floats(PIXELS, CHANNELS), order, starts, offsets, lambda: floats(CLUSTERS, LENGTH)],
        (4,),
    ),
    "cluster_spread": ([lambda: floats(CLUSTERS, LENGTH), ids, starts, lambda: floats(PIXELS, CHANNELS)], (3,)),
    "count_nonzeros": ([lambda: floats(PIXELS, CHANNELS), lambda: 1], ()),
    "gather_add": (
        [
            lambda: floats(CLUSTERS, TAPS, OUTPUTS), lambda: floats(OUTPUTS), ids, lambda: list(GEOMETRY),
            lambda: floats(IMAGES, HEIGHT, WIDTH, OUTPUTS),
        ],
        (4,),
    ),
    "group_codes": (
        [
            lambda: int32s(GROUPS, PIXELS), lambda: 12, lambda: int32s(GROUPS, PIXELS), lambda: int32s(GROUPS, PIXELS),
            lambda: int64s(GROUPS * PIXELS + 1), lambda: int64s(GROUPS + 1),
        ],
        (2, 3, 4, 5),
    ),
    "level_codes": (
        [
            lambda: floats(PIXELS, CHANNELS), lambda: floats(3, CHANNELS), lambda: LENGTH, lambda: 2,
            lambda: torch.zeros(PIXELS, GROUPS, dtype=torch.uint8),
        ],
        (4,),
    ),
    "nearest_centroid": (
        [
            lambda: floats(PIXELS, CHANNELS), lambda: floats(GROUPS, CLUSTERS, LENGTH), lambda: int32s(GROUPS, PIXELS),
        ],
        (2,),
    ),
    "pair_plan": (
        [lambda: doubles(3), lambda: doubles(4, 4), lambda: doubles(4, 4), lambda: 1e9, lambda: int64s(3)],
        (4,),
    ),
    "pull_sums": (
        [
            lambda: floats(IMAGES, HEIGHT, WIDTH, OUTPUTS), order, starts, lambda: list(GEOMETRY),
            lambda: floats(CLUSTERS, TAPS, OUTPUTS),
        ],
        (4,),
    ),
    "relu_pool": (
        [
            lambda: floats(IMAGES, HEIGHT, WIDTH, OUTPUTS), lambda: list(POOL),
            lambda: floats(IMAGES, 2, 2, OUTPUTS), lambda: bytes_(IMAGES, 2, 2, OUTPUTS),
        ],
        (2, 3),
    ),
    "sign_hash": (
        [
            lambda: floats(PIXELS, CHANNELS), lambda: floats(GROUPS, LENGTH, BITS), lambda: floats(GROUPS, BITS),
            lambda: int32s(GROUPS, PIXELS),
        ],
        (3,),
    ),
    "table_conv": (
        [
            lambda: torch.ones(2, TAPS, GROUPS * 4, 32, dtype=torch.int16), lambda: floats(40), lambda: floats(40),
            lambda: torch.ones(PIXELS, GROUPS, dtype=torch.uint8), lambda: list(GEOMETRY),
            lambda: Geometry.of((HEIGHT, WIDTH), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)).flat(), lambda: True,
            lambda: False, lambda: floats(IMAGES, HEIGHT, WIDTH, 40),
        ],
        (8,),
    ),
    "relu_pool_bf16": (
        [
            lambda: halves(IMAGES, HEIGHT, WIDTH, OUTPUTS), lambda: list(POOL),
            lambda: halves(IMAGES, 2, 2, OUTPUTS), lambda: bytes_(IMAGES, 2, 2, OUTPUTS),
        ],
        (2, 3),
    ),
    "relu_unpool": (
        [
            lambda: floats(IMAGES, 2, 2, OUTPUTS), lambda: floats(IMAGES, 2, 2, OUTPUTS),
            lambda: bytes_(IMAGES, 2, 2, OUTPUTS), lambda: list(POOL), lambda: floats(IMAGES, HEIGHT, WIDTH, OUTPUTS),
        ],
        (4,),
    ),
    "relu_unpool_bf16": (
        [
            lambda: floats(IMAGES, 2, 2, OUTPUTS), lambda: floats(IMAGES, 2, 2, OUTPUTS),
            lambda: bytes_(IMAGES, 2, 2, OUTPUTS), lambda: list(POOL), lambda: halves(IMAGES, HEIGHT, WIDTH, OUTPUTS),
        ],
        (4,),
    ),
    "skip_conv": (
        [
            lambda: floats(IMAGES, 3, 4, CHANNELS), lambda: floats(OUTPUTS, TAPS, CHANNELS), lambda: floats(OUTPUTS),
            lambda: list(GEOMETRY), lambda: 0.5, lambda: floats(IMAGES, HEIGHT, WIDTH, OUTPUTS),
        ],
        (5,),
    ),
    "skip_conv_backward": (
        [
            lambda: floats(IMAGES, 2, 2, OUTPUTS), lambda: floats(IMAGES, 2, 2, OUTPUTS),
            lambda: bytes_(IMAGES, 2, 2, OUTPUTS), lambda: list(POOL), lambda: floats(IMAGES, 3, 4, CHANNELS),
            lambda: floats(OUTPUTS, TAPS, CHANNELS), lambda: list(GEOMETRY), lambda: 0.5,
            lambda: floats(IMAGES, 3, 4, CHANNELS), lambda: floats(OUTPUTS, TAPS, CHANNELS), lambda: floats(OUTPUTS),
        ],
        (8, 9, 10),
    ),
    **lsh_arguments.TABLE,
}  # fmt: skip
OPTIONAL = {
    "relu_unpool": (2,), "relu_unpool_bf16": (2,), "skip_conv_backward": (1, 2, 8, 9, 10), **lsh_arguments.OPTIONAL,
}  # fmt: skip
GEOMETRY_AT = {"gather_add": 3, "pull_sums": 3, "skip_conv": 3, "skip_conv_backward": 6}
POOL_AT = {"relu_pool": 1, "relu_pool_bf16": 1, "relu_unpool": 3, "relu_unpool_bf16": 3, "skip_conv_backward": 3}


def other_dtype(t):
    return t.to(torch.float64 if t.dtype != torch.float64 else torch.float32)


def neighbour_dtype(t):
    """The one that a careless conversion would take."""
    return t.to(
        {torch.int32: torch.int64, torch.int64: torch.int32, torch.float32: torch.bfloat16}.get(t.dtype, torch.half)
    )


def strided(t):
    return torch.stack([t, t], -1)[..., 0]


def transposed(t):
    return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else strided(t)


def on_meta(t):
    return t.to("meta")


WRONG_TYPES = {
    "dtype": other_dtype, "neighbour": neighbour_dtype, "strided": strided, "transposed": transposed, "meta": on_meta,
    "rank above": lambda t: t.unsqueeze(0), "rank below": lambda t: t.reshape(-1) if t.dim() > 1 else t[0],
    "list": lambda t: t.tolist(), "none": lambda t: None, "number": lambda t: 3,
}  # fmt: skip
TENSORS = [
    (name, position)
    for name, (makers, _) in TABLE.items()
    for position, make in enumerate(makers)
    if isinstance(make(), torch.Tensor)
]


def refused(name, position, wrong, error):
    """Call with one argument made wrong; nothing that the function writes may change."""
    makers, _ = TABLE[name]
    arguments = [make() for make in makers]
    arguments[position] = wrong(arguments[position])
    written = [t for t in arguments if isinstance(t, torch.Tensor) and not t.is_meta]
    before = [t.clone() for t in written]
    with pytest.raises(error) as caught:
        getattr(native, name)(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(written, before, strict=True))
    return str(caught.value)


@pytest.mark.parametrize("name", TABLE)
def test_right_arguments_are_taken(name):
    makers, outputs = TABLE[name]
    arguments = [make() for make in makers]
    for i in outputs:
        arguments[i].fill_(77)
    getattr(native, name)(*arguments)
    assert all((arguments[i].flatten()[0] != 77).all() for i in outputs)


@pytest.mark.parametrize("wrong", WRONG_TYPES)
@pytest.mark.parametrize("name, position", TENSORS)
def test_another_type_or_layout_is_refused_rather_than_converted(name, position, wrong):
    if wrong == "none" and position in OPTIONAL.get(name, ()):
        pytest.skip("may be left out")
    refused(name, position, WRONG_TYPES[wrong], TypeError)


@pytest.mark.parametrize("left_out", range(1, 8))
def test_gradients_that_are_not_asked_for_may_be_left_out(left_out):
    makers, outputs = TABLE["skip_conv_backward"]
    whole, some = [make() for make in makers], [make() for make in makers]
    for bit, position in enumerate(outputs):
        some[position] = None if left_out >> bit & 1 else some[position].fill_(77)
    native.skip_conv_backward(*whole)
    native.skip_conv_backward(*some)
    assert all(some[i] is None or torch.equal(some[i], whole[i]) for i in outputs)


def test_a_gradient_without_a_pool_and_without_a_relu():
    arguments = [make() for make in TABLE["skip_conv_backward"][0]]
    arguments[0] = floats(IMAGES, HEIGHT, WIDTH, OUTPUTS)
    for output in (None, floats(IMAGES, HEIGHT, WIDTH, OUTPUTS)):
        arguments[1:4] = [output, None, []]
        native.skip_conv_backward(*arguments)
        assert torch.equal(arguments[10], torch.full((OUTPUTS,), 0.5 * IMAGES * HEIGHT * WIDTH))


def test_places_in_windows_need_the_output_beside_them():
    assert "given without output" in refused("skip_conv_backward", 1, lambda _: None, ValueError)


def test_without_places_the_gradient_is_as_large_as_the_convolutions_output():
    assert "gradient: axis 1 has size 2, expected 4" in refused("skip_conv_backward", 2, lambda _: None, ValueError)


@pytest.mark.parametrize(
    "name, position", [(n, p) for n, p in TENSORS if p in (*TABLE[n][1], *lsh_arguments.CHANGED.get(n, ()))]
)
def test_an_output_that_is_read_only_is_refused(name, position):
    def read_only(t):
        array = t.numpy()
        array.setflags(write=False)
        return array

    refused(name, position, read_only, TypeError)


FREE = {  # (position, axis): the sizes that others are held to, or that only the contents must fit
    "channel_moments": {(0, 0)},
    "cluster_mean": {(0, 1), (4, 1)},
    "cluster_spread": {(0, 1), (3, 1)},
    "count_nonzeros": {(0, 0), (0, 1)},
    "gather_add": {(0, 0), (2, 0)},
    "nearest_centroid": {(0, 1), (1, 1), (1, 2)},
    "relu_pool": {(0, 1), (0, 2)},
    "relu_pool_bf16": {(0, 1), (0, 2)},
    "relu_unpool": {(4, 1), (4, 2)},
    "relu_unpool_bf16": {(4, 1), (4, 2)},
    "sign_hash": {(0, 1), (1, 1)},
    "table_conv": {(3, 1)},
    **lsh_arguments.FREE,
}


def sizes():
    """Every axis of every array that is not free."""
    for name, position in TENSORS:
        for axis in range(TABLE[name][0][position]().dim()):
            if (position, axis) not in FREE.get(name, set()):
                yield name, position, axis


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("name, position, axis", list(sizes()))
def test_a_size_that_does_not_fit_is_refused(name, position, axis, by):
    def resized(t):
        shape = list(t.shape)
        shape[axis] += by
        return t.new_zeros(shape)

    assert "expected" in refused(name, position, resized, ValueError)


def entry(index, value):
    def change(t):
        t = t.clone()
        t.view(-1)[index] = value
        return t

    return change


NUMBERS = [
    ("cluster_mean", 1, PIXELS, "order"), ("cluster_spread", 1, CLUSTERS, "ids"), ("gather_add", 2, CLUSTERS, "ids"),
    ("pull_sums", 1, PIXELS, "order"), ("sampled_mm", 3, lsh_arguments.CLASSES, "columns"),
    ("sparse_mm", 1, lsh_arguments.CLASSES, "columns"),
]  # fmt: skip


@pytest.mark.parametrize("name, position, below, what", NUMBERS)
@pytest.mark.parametrize("index", [0, 7, -1])
@pytest.mark.parametrize("value", ["below", -1, 2**31 - 1, -(2**31)])
def test_numbers_beyond_the_arrays_are_refused(name, position, below, what, index, value):
    value = below if value == "below" else value
    message = refused(name, position, entry(index, value), ValueError)
    assert f"{what}: holds values out of range: expected 0 to {below} - 1" in message


@pytest.mark.parametrize(
    "name, position, what",
    [("cluster_mean", 2, "starts"), ("cluster_mean", 3, "offsets"), ("pull_sums", 2, "starts")],
)
@pytest.mark.parametrize("index, value", [(0, 1), (0, -1), (1, 2**62), (1, -(2**63)), (-1, 2**62), (-1, 1), (-2, -1)])
def test_ranges_that_do_not_follow_each_other_are_refused(name, position, what, index, value):
    assert f"{what}: expected values that rise from 0" in refused(name, position, entry(index, value), ValueError)


@pytest.mark.parametrize("name", ["cluster_mean", "cluster_spread", "nearest_centroid", "sign_hash"])
def test_pieces_of_no_channels_are_refused(name):
    position, axis = {
        "cluster_mean": (4, 1),
        "cluster_spread": (0, 1),
        "nearest_centroid": (1, 2),
        "sign_hash": (1, 1),
    }[name]

    def without_length(t):
        return t.new_zeros([0 if i == axis else size for i, size in enumerate(t.shape)])

    assert "at least one channel" in refused(name, position, without_length, ValueError)


def test_a_codebook_needs_an_entry():
    refused("nearest_centroid", 1, lambda t: t[:, :0].contiguous(), ValueError)


@pytest.mark.parametrize("bits", [0, 31, 64])
def test_too_few_and_too_many_bits(bits):
    makers, _ = TABLE["sign_hash"]
    x, _, _, codes = (make() for make in makers)
    with pytest.raises(ValueError, match="expected 1 to 30 bits"):
        native.sign_hash(x, floats(GROUPS, LENGTH, bits), floats(GROUPS, bits), codes)
    assert (codes == 0).all()


@pytest.mark.parametrize("position, number", [(2, 0), (2, -1), (2, 5), (3, 0), (3, 3), (3, 2**62)])
def test_levels_that_do_not_share_a_byte_are_refused(position, number):
    assert "product of 1 to 8" in refused("level_codes", position, lambda _: number, ValueError)


@pytest.mark.parametrize("index", [0, -1])
def test_codes_beyond_the_table_are_refused(index):
    assert "expected 0 to 4 - 1" in refused("table_conv", 3, entry(index, 4), ValueError)


@pytest.mark.parametrize("scope", [0, -1, -(2**63)])
def test_scope_must_be_positive(scope):
    assert "at least one pixel" in refused("group_codes", 1, lambda _: scope, ValueError)


@pytest.mark.parametrize("scope", [2**63, 1.5, None, "12"])
def test_scope_must_be_a_whole_number(scope):
    refused("group_codes", 1, lambda _: scope, TypeError)


GEOMETRIES = {
    "too short": GEOMETRY[:-1],
    "too long": [*GEOMETRY, 1],
    "empty": [],
    **{f"zero at {i}": [*GEOMETRY[:i], 0, *GEOMETRY[i + 1 :]] for i in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11)},
    **{f"negative at {i}": [*GEOMETRY[:i], -1, *GEOMETRY[i + 1 :]] for i in range(12)},
    **{f"huge at {i}": [*GEOMETRY[:i], 2**62, *GEOMETRY[i + 1 :]] for i in range(12)},
    "pixels that overflow": [2**16, 2**16, *GEOMETRY[2:]],
    "taps that overflow": [*GEOMETRY[:4], 2**31 - 1, 2**31 - 1, *GEOMETRY[6:]],
}


@pytest.mark.parametrize("wrong", GEOMETRIES)
@pytest.mark.parametrize("name", GEOMETRY_AT)
def test_a_geometry_that_makes_no_sense_is_refused(name, wrong):
    refused(name, GEOMETRY_AT[name], lambda _: GEOMETRIES[wrong], ValueError)


@pytest.mark.parametrize("wrong", GEOMETRIES)
@pytest.mark.parametrize("position", [4, 5])
def test_a_geometry_or_pool_that_makes_no_sense_is_refused(position, wrong):
    refused("table_conv", position, lambda _: GEOMETRIES[wrong], ValueError)


@pytest.mark.parametrize("wrong", [None, "12", [1.5] * 12, [2**63] * 12, 7])
@pytest.mark.parametrize("name", GEOMETRY_AT)
def test_a_geometry_of_another_type_is_refused(name, wrong):
    refused(name, GEOMETRY_AT[name], lambda _: wrong, TypeError)


def test_outputs_that_see_more_than_can_be_numbered_are_refused():
    wide = [*GEOMETRY[:6], 2**31 - 1, 2**31 - 1, *GEOMETRY[8:]]
    assert "see more than 2^31 - 1 pixels" in refused("skip_conv_backward", 6, lambda _: wide, ValueError)


def pool_with(**numbers):
    names = ("out_h", "out_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w")
    return [numbers.get(name, number) for name, number in zip(names, POOL, strict=True)]


BAD_POOLS = {
    "too short": POOL[:-1],
    "too long": [*POOL, 0],
    "empty": [],
    **{f"zero at {i}": [*POOL[:i], 0, *POOL[i + 1 :]] for i in range(6)},
    **{f"negative at {i}": [*POOL[:i], -1, *POOL[i + 1 :]] for i in range(8)},
    **{f"huge at {i}": [*POOL[:i], 2**62, *POOL[i + 1 :]] for i in range(8)},
    "padding of a whole window": pool_with(pad_h=2),
    "a window below the map": pool_with(out_h=3),
    "a window beside the map": pool_with(stride_w=3),
    "a window of more pixels than a byte tells apart": pool_with(kernel_h=16, kernel_w=16),
}


@pytest.mark.parametrize("wrong", BAD_POOLS)
@pytest.mark.parametrize("name", POOL_AT)
def test_a_pool_that_makes_no_sense_is_refused(name, wrong):
    assert "pool: " in refused(name, POOL_AT[name], lambda _: BAD_POOLS[wrong], ValueError)


@pytest.mark.parametrize("wrong", [None, "12", [1.5] * 8, [2**63] * 8, 7])
@pytest.mark.parametrize("name", POOL_AT)
def test_a_pool_of_another_type_is_refused(name, wrong):
    refused(name, POOL_AT[name], lambda _: wrong, TypeError)


@pytest.mark.parametrize("step", [0, -1, -(2**63)])
def test_a_step_must_be_positive(step):
    assert "at least one row" in refused("count_nonzeros", 1, lambda _: step, ValueError)


@pytest.mark.parametrize("step", [2**63, 1.5, None, "12"])
def test_a_step_must_be_a_whole_number(step):
    refused("count_nonzeros", 1, lambda _: step, TypeError)


@pytest.mark.parametrize("wrong", [None, "0.5", [0.5]])
@pytest.mark.parametrize("name, position", [("skip_conv", 4), ("skip_conv_backward", 7)])
def test_a_share_must_be_a_number(name, position, wrong):
    refused(name, position, lambda _: wrong, TypeError)


@pytest.mark.parametrize("share", [-1.0, 2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name, position", [("skip_conv", 4), ("skip_conv_backward", 7)])
def test_any_share_gives_the_same_answer(name, position, share):
    makers, outputs = TABLE[name]
    usual, other = [make() for make in makers], [make() for make in makers]
    other[position] = share
    getattr(native, name)(*usual)
    getattr(native, name)(*other)
    for i in outputs:
        torch.testing.assert_close(other[i], usual[i])


ROWS_FIRST = ("adam_skip", "adam_rows", "sgd_skip", "sgd_rows", "adagrad_rows", "table_update")
ROWS_OF = {**dict.fromkeys(ROWS_FIRST, 0), "active_set": 3}


@pytest.mark.parametrize("value", [lsh_arguments.CLASSES, -1, 2**62, -(2**63)])
@pytest.mark.parametrize("name", ROWS_OF)
def test_rows_beyond_the_arrays_are_refused(name, value):
    assert "holds values out of range" in refused(name, ROWS_OF[name], entry(1, value), ValueError)


@pytest.mark.parametrize(
    "name, position, value",
    [
        ("pack_signs", 1, floats(3, 0)), ("probe_signs", 2, int32s(2, 2) + 4),
        ("wta_hash", 2, -1), ("wta_hash", 1, int32s(3, 4, 1)), ("min_hash", 2, 0),
        ("min_hash", 3, 16), ("table_update", 2, int32s(3, 3) + 8), ("table_update", 5, int32s(3, 8, 0)),
        ("active_set", 4, -1), ("active_set", 5, 21), ("active_set", 0, int32s(6, 3, 2) + 8),
        ("row_candidates", 0, int32s(6, 3, 2) - 1), ("rank_top", 4, int64s(6) + 5), ("rank_top", 3, int32s(6, 4) + 20),
        ("adam_skip", 1, 11), ("adam_skip", 1, -1), ("adam_skip", 11, int32s(20) - 1), ("adam_rows", 2, 2**31),
        ("sgd_skip", 1, 2**40), ("sgd_rows", 2, -1), ("adagrad_rows", 6, floats(20, 1)),
    ],
)  # fmt: skip
def test_values_that_a_kernel_could_not_trust_are_refused(name, position, value):
    assert "expected" in refused(name, position, lambda _: value, ValueError)


def test_every_function_is_in_the_table():
    plain = {"isa", "isas", "set_isa", "max_threads"}
    assert set(TABLE) == {name for name in dir(native) if not name.startswith("_")} - plain
