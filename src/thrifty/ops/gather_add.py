"""gather_add and pull_sums: from the table of shared products to the output, and back. Each is the other's adjoint.

y[n, o] = bias + sum over pieces g, taps r of table[ids[g, pixel that tap r sees from o], r]   (ADR, forward step 5)
sums[k, r] = sum of y over the outputs that see a member of cluster k through tap r            (ADR, dYsum)
A pixel's piece is the same vector under every tap, so it is hashed once and its products are shared by the taps;
padding contributes nothing. Cost: P * G * R row additions of M numbers; pull_sums writes each of its rows once.
Deviation from ADR: the vectors are pieces of pixels, not of im2col rows: k*k times fewer of them to hash and group.
"""

from collections.abc import Sequence

from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Args, Op
from thrifty.ops.geometry import Geometry


def reference_gather(table_KRM: Tensor, bias: Tensor | None, ids_GP: Tensor, geometry: Geometry) -> Tensor:
    """Table (K, R, M) and ids (G, P) -> outputs (N, OH, OW, M)."""
    height, width = geometry.input
    ids_GNHW = ids_GP.view(ids_GP.shape[0], -1, height, width).long()
    y_NHWM = table_KRM.new_zeros(ids_GNHW.shape[1], *geometry.output, table_KRM.shape[2])
    for tap, outputs, pixels in geometry.windows():
        seen = ids_GNHW[:, :, pixels[0], pixels[1]]
        y_NHWM[:, outputs[0], outputs[1]] += table_KRM[:, tap][seen].sum(0)
    return y_NHWM if bias is None else y_NHWM + bias


def reference_pull(y_NHWM: Tensor, ids_GP: Tensor, clusters: int, geometry: Geometry) -> Tensor:
    """Outputs (N, OH, OW, M) and ids (G, P) -> sums (K, R, M)."""
    height, width = geometry.input
    ids_GNHW = ids_GP.view(ids_GP.shape[0], -1, height, width)
    sums_KRM = y_NHWM.new_zeros(clusters, geometry.taps, y_NHWM.shape[3])
    for tap, outputs, pixels in geometry.windows():
        seen_GX = ids_GNHW[:, :, pixels[0], pixels[1]].reshape(ids_GP.shape[0], -1)
        rows_XM = y_NHWM[:, outputs[0], outputs[1]].reshape(-1, y_NHWM.shape[3])
        for seen_X in seen_GX:
            sums_KRM[:, tap].index_add_(0, seen_X, rows_XM)
    return sums_KRM


def _images(ids_GP: Tensor, geometry: Geometry) -> int:
    pixels = geometry.input[0] * geometry.input[1]
    if ids_GP.shape[1] % pixels:
        raise ValueError(f"{ids_GP.shape[1]} pixels are not a whole number of {geometry.input} images")
    return ids_GP.shape[1] // pixels


def _run_gather(
    table_KRM: Tensor,
    bias: Tensor | None,
    ids_GP: Tensor,
    order_GP: Tensor,
    starts: Tensor,
    offsets: Tensor,
    geometry: list[int],
) -> Tensor:
    shape = Geometry.unflat(geometry)
    images = _images(ids_GP, shape)
    if table_KRM.dim() != 3 or table_KRM.shape[:2] != (starts.numel() - 1, shape.taps):
        raise ValueError(
            f"gather_add: a table of {tuple(table_KRM.shape)} does not fit {starts.numel() - 1} clusters "
            f"and {shape.taps} taps"
        )
    if bias is not None and bias.shape != table_KRM.shape[2:]:
        raise ValueError(f"gather_add: bias of {tuple(bias.shape)} for {table_KRM.shape[2]} outputs")
    if not use_native(table_KRM, *([] if bias is None else [bias])):
        return reference_gather(table_KRM, bias, ids_GP, shape)
    y_NHWM = table_KRM.new_empty(images, *shape.output, table_KRM.shape[2])
    start = table_KRM.new_zeros(table_KRM.shape[2]) if bias is None else bias.contiguous()
    native.gather_add(table_KRM.contiguous(), start, ids_GP, geometry, y_NHWM)
    return y_NHWM


def _run_pull(
    y_NHWM: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, geometry: list[int]
) -> Tensor:
    shape = Geometry.unflat(geometry)
    if y_NHWM.shape[:3] != (_images(ids_GP, shape), *shape.output):
        raise ValueError(f"pull_sums: outputs of {tuple(y_NHWM.shape)} do not fit {shape}")
    clusters = starts.numel() - 1
    if not use_native(y_NHWM):
        return reference_pull(y_NHWM, ids_GP, clusters, shape)
    sums_KRM = y_NHWM.new_empty(clusters, shape.taps, y_NHWM.shape[3])
    native.pull_sums(y_NHWM.contiguous(), order_GP, starts, geometry, sums_KRM)
    return sums_KRM


def _fake_gather(
    table_KRM: Tensor,
    bias: Tensor | None,
    ids_GP: Tensor,
    order_GP: Tensor,
    starts: Tensor,
    offsets: Tensor,
    geometry: list[int],
) -> Tensor:
    shape = Geometry.unflat(geometry)
    return table_KRM.new_empty(_images(ids_GP, shape), *shape.output, table_KRM.shape[2])


def _fake_pull(
    y_NHWM: Tensor, ids_GP: Tensor, order_GP: Tensor, starts: Tensor, offsets: Tensor, geometry: list[int]
) -> Tensor:
    return y_NHWM.new_empty(starts.shape[0] - 1, Geometry.unflat(geometry).taps, y_NHWM.shape[3])


def _gather_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    return (
        pull_sums(gradient, *args[2:]) if needed[0] else None,
        gradient.sum((0, 1, 2)) if needed[1] else None,
    )


def _gather_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    table_t, bias_t = tangents
    if table_t is not None:
        return gather_add(table_t, bias_t, *args[2:])
    assert bias_t is not None, "autograd asks for a tangent only when an input has one"
    ids_GP, geometry = args[2], Geometry.unflat(args[6])
    return bias_t.expand(_images(ids_GP, geometry), *geometry.output, bias_t.shape[0]).contiguous()


def _pull_backward(args: Args, needed: Sequence[bool], gradient: Tensor) -> Sequence[Tensor | None]:
    return (gather_add(gradient, None, *args[1:]),)


def _pull_jvp(args: Args, tangents: Sequence[Tensor | None]) -> Tensor:
    return pull_sums(tangents[0], *args[1:])


_CLUSTERS = "Tensor ids, Tensor order, Tensor starts, Tensor offsets, int[] geometry"

gather_add = Op(
    "gather_add",
    f"(Tensor table, Tensor? bias, {_CLUSTERS}) -> Tensor",
    stage="gather",
    implementation=_run_gather,
    fake=_fake_gather,
    linear=(0, 1),
    saves=(2, 3, 4, 5),
    backward=_gather_backward,
    jvp=_gather_jvp,
)
pull_sums = Op(
    "pull_sums",
    f"(Tensor y, {_CLUSTERS}) -> Tensor",
    stage="scatter",
    implementation=_run_pull,
    fake=_fake_pull,
    linear=(0,),
    saves=(1, 2, 3, 4),
    backward=_pull_backward,
    jvp=_pull_jvp,
)
