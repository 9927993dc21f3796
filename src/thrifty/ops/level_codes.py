"""level_codes: one small whole number for every value, the level it lies in; neighbouring channels share a byte.

level(x) = how many of its channel's thresholds are below x: scalar quantisation after Lloyd (1982) and Max (1960).
code of a piece of L channels = sum over its channels i of level_i * 2^(B i), so L * B <= 8.
Cost: P * C * (2^B - 1) comparisons, no multiplication.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops.clusters import piece_count

MAX_CODE_BITS = 8


def reference(x_PC: Tensor, thresholds_TC: Tensor, length: int, bits: int) -> tuple[Tensor, Tensor]:
    """Rows (P, C) and thresholds (2^B - 1, C) -> codes (P, G) uint8 and whether a value is not finite, (1,) int32."""
    levels_PC = (x_PC > thresholds_TC.unsqueeze(1)).sum(0, dtype=torch.int32)
    groups = piece_count(x_PC.shape[1], length)
    padded = torch.nn.functional.pad(levels_PC, (0, groups * length - x_PC.shape[1]))
    shifts_L = 2 ** (bits * torch.arange(length, dtype=torch.int32, device=x_PC.device))
    codes_PG = (padded.view(-1, groups, length) * shifts_L).sum(-1).to(torch.uint8)
    bad = (~x_PC.isfinite()).any().to(torch.int32).reshape(1)
    return codes_PG, bad


def _run(x_PC: Tensor, thresholds_TC: Tensor, length: int, bits: int) -> tuple[Tensor, Tensor]:
    if length < 1 or bits < 1 or length * bits > MAX_CODE_BITS:
        raise ValueError(
            f"level_codes: {length} channels of {bits} bits do not make a code of 1 to {MAX_CODE_BITS} bits"
        )
    if x_PC.dim() != 2 or thresholds_TC.shape != (2**bits - 1, x_PC.shape[1]):
        raise ValueError(
            f"level_codes: x {tuple(x_PC.shape)} and thresholds {tuple(thresholds_TC.shape)} do not belong together: "
            "expected (P, C) and (2^B - 1, C)"
        )
    if not use_native(x_PC, thresholds_TC):
        return reference(x_PC, thresholds_TC, length, bits)
    codes_PG = torch.empty(x_PC.shape[0], piece_count(x_PC.shape[1], length), dtype=torch.uint8)
    bad = native.level_codes(x_PC.contiguous(), thresholds_TC.contiguous(), length, bits, codes_PG)
    return codes_PG, torch.tensor([int(bad)], dtype=torch.int32)


def _fake(x_PC: Tensor, thresholds_TC: Tensor, length: int, bits: int) -> tuple[Tensor, Tensor]:
    codes = x_PC.new_empty(x_PC.shape[0], piece_count(x_PC.shape[1], length), dtype=torch.uint8)
    return codes, x_PC.new_empty(1, dtype=torch.int32)


level_codes = Op(
    "level_codes",
    "(Tensor x, Tensor thresholds, int length, int bits) -> (Tensor codes, Tensor bad)",
    stage="hash",
    implementation=_run,
    fake=_fake,
)
