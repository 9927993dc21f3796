"""table_conv: a convolution by looking up precomputed products in a table of 16-bit numbers.

y[n, o, m] = scale[m] * sum over groups g, taps r of table[r, g, codes[pixel that r sees from o, g], m] + bias[m]
The sum saturates at the ends of int16 instead of wrapping round; `relu` clips y at zero; at last y is max-pooled over
the windows of `pool` (1x1 ones leave it as it is). With `skip`, code 0 names a row of zeros that is not looked up: for
inputs behind a ReLU many are. scale is positive. Padding contributes nothing.
Source: product quantisation with tables as in Jegou et al. (TPAMI 2011) and Blalock & Guttag's MADDNESS (ICML 2021),
with tables shared by the taps as everywhere in thrifty's reuse. Deviation: 16-bit rows along the outputs instead of
8-bit shuffles along the pixels, so that a row of any number of entries costs the same.
Cost: P * G * R row additions of M int16 numbers, no multiplication.
"""

import torch
from torch import Tensor
from torch.nn import functional

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops.geometry import Geometry

INT16 = torch.iinfo(torch.int16)
WIDTHS = (128, 96, 64, 32)  # outputs a block, in multiples of the widest register's 32 numbers


def pack_table(table_RGEM: Tensor, widest: int = 128) -> Tensor:
    """Cut a table (taps, groups, entries, outputs) int16 into blocks of outputs as the kernel reads them.

    Returns (blocks, taps, groups * entries, width), the last block filled up with zeros; of the widths up to `widest`
    that waste least, the widest.
    """
    taps, groups, entries, outputs = table_RGEM.shape
    width = min((w for w in WIDTHS if w <= widest), key=lambda w: (-(-outputs // w) * w, -w))
    blocks = -(-outputs // width)
    padded = functional.pad(table_RGEM, (0, blocks * width - outputs))
    return padded.view(taps, groups * entries, blocks, width).permute(2, 0, 1, 3).contiguous()


def reference(
    packed: Tensor,
    scale_M: Tensor,
    bias_M: Tensor,
    codes_PG: Tensor,
    geometry: Geometry,
    pool: Geometry,
    skip: bool,
    relu: bool,
) -> Tensor:
    """Packed table and codes (P, G) uint8 -> outputs (N, PH, PW, M)."""
    blocks, taps, rows, width = packed.shape
    groups, outputs = codes_PG.shape[1], scale_M.shape[0]
    table_RGEM = packed.permute(1, 2, 0, 3).reshape(taps, groups, rows // groups, blocks * width)[..., :outputs].long()
    if skip:
        table_RGEM = table_RGEM.clone()
        table_RGEM[:, :, 0] = 0
    codes_NHWG = codes_PG.view(-1, *geometry.input, groups).long()
    sums_NHWM = torch.zeros(codes_NHWG.shape[0], *geometry.output, outputs, dtype=torch.int64, device=packed.device)
    every_group = torch.arange(groups, device=packed.device)
    for tap, out, pixels in geometry.windows():
        seen = codes_NHWG[:, pixels[0], pixels[1]]
        sums_NHWM[:, out[0], out[1]] += table_RGEM[tap][every_group, seen].sum(-2)
    y_NHWM = sums_NHWM.clamp(INT16.min, INT16.max).to(scale_M.dtype) * scale_M + bias_M
    if relu:
        y_NHWM = y_NHWM.relu()
    if pool.taps == 1:
        return y_NHWM
    pooled = torch.full_like(y_NHWM[:, :1, :1], -torch.inf).repeat(1, *pool.output, 1)
    for _, out, seen_at in pool.windows():
        inside = pooled[:, out[0], out[1]]
        inside.copy_(torch.maximum(inside, y_NHWM[:, seen_at[0], seen_at[1]]))
    return pooled


def _run(
    packed: Tensor,
    scale_M: Tensor,
    bias_M: Tensor,
    codes_PG: Tensor,
    geometry: list[int],
    pool: list[int],
    skip: bool,
    relu: bool,
) -> Tensor:
    shape, windows = Geometry.unflat(geometry), Geometry.unflat(pool)
    if windows.input != shape.output:
        raise ValueError(
            f"table_conv: a pool of {windows.input} outputs does not fit a convolution with {shape.output}"
        )
    pixels = shape.input[0] * shape.input[1]
    if codes_PG.dim() != 2 or codes_PG.dtype != torch.uint8 or codes_PG.shape[0] % pixels:
        raise ValueError(
            f"table_conv: codes must be uint8 (P, G) of whole images of {shape.input} pixels, "
            f"got {codes_PG.dtype} {tuple(codes_PG.shape)}"
        )
    fits = packed.dim() == 4 and packed.dtype == torch.int16 and packed.shape[1] == shape.taps
    if not fits or packed.shape[2] % max(codes_PG.shape[1], 1) or bias_M.shape != scale_M.shape:
        raise ValueError(
            f"table_conv: a table of {tuple(packed.shape)} {packed.dtype} does not fit {codes_PG.shape[1]} groups, "
            f"{shape.taps} taps and {scale_M.shape[0]} outputs"
        )
    if not use_native(scale_M, bias_M):
        return reference(packed, scale_M, bias_M, codes_PG, shape, windows, skip, relu)
    y_NHWM = scale_M.new_empty(codes_PG.shape[0] // pixels, *windows.output, scale_M.shape[0])
    native.table_conv(
        packed.contiguous(), scale_M.contiguous(), bias_M.contiguous(), codes_PG.contiguous(), geometry, pool,
        skip, relu, y_NHWM,
    )  # fmt: skip
    return y_NHWM


def _fake(
    packed: Tensor,
    scale_M: Tensor,
    bias_M: Tensor,
    codes_PG: Tensor,
    geometry: list[int],
    pool: list[int],
    skip: bool,
    relu: bool,
) -> Tensor:
    shape = Geometry.unflat(geometry)
    images = codes_PG.shape[0] // (shape.input[0] * shape.input[1])
    return scale_M.new_empty(images, *Geometry.unflat(pool).output, scale_M.shape[0])


table_conv = Op(
    "table_conv",
    "(Tensor table, Tensor scale, Tensor bias, Tensor codes, int[] geometry, int[] pool, bool skip, bool relu)"
    " -> Tensor",
    stage="gather",
    implementation=_run,
    fake=_fake,
)
