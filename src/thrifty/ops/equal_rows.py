"""equal_rows: which rows are the same, bit for bit: the lossless way to find what can be shared.

Embedded tokens, padding and blank image rows recur exactly, so one product for each distinct row gives what the dense
layer gives, without any error. A row's key is its product with a random vector; rows with equal keys are compared
in full, so two rows that differ never share, whatever their keys. Cost: two passes over the rows and a sort of P keys.
"""

import numpy
import torch
from torch import Tensor

from thrifty.ops._define import Op

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SEED = 0x5EED  # of the keys' random vector; any will do, as equal keys are checked


def _as_bits(x_PC: Tensor) -> Tensor:
    """The bit patterns: NaN equals the same NaN, and 0 and -0 differ."""
    return x_PC.contiguous().view(_BITS[x_PC.element_size()])


def reference(x_PC: Tensor) -> Tensor:
    """Rows (P, C) -> codes int32 (1, P): the first row that equals this one."""
    bits_PC = _as_bits(x_PC)
    _, inverse_P = torch.unique(bits_PC, dim=0, return_inverse=True)
    return _firsts(inverse_P)[inverse_P].to(torch.int32).unsqueeze(0)


def _firsts(inverse_P: Tensor) -> Tensor:
    """The lowest position of every value in `inverse_P`, which takes all values from 0 on."""
    positions_P = torch.arange(inverse_P.numel(), device=inverse_P.device)
    empty_K = positions_P.new_full((int(inverse_P.max()) + 1,), inverse_P.numel())
    return empty_K.scatter_reduce_(0, inverse_P, positions_P, "amin")


def _run(x_PC: Tensor) -> Tensor:
    if x_PC.dim() != 2 or not x_PC.is_floating_point():
        raise ValueError(f"equal_rows: expected floating-point rows (P, C), got {x_PC.dtype} {tuple(x_PC.shape)}")
    if x_PC.numel() == 0:  # rows of nothing are all equal
        return torch.zeros(1, x_PC.shape[0], dtype=torch.int32, device=x_PC.device)
    factors = numpy.random.default_rng(_SEED).standard_normal(x_PC.shape[1])
    keys_P = (x_PC * torch.from_numpy(factors).to(x_PC)).sum(1)
    _, inverse_P = torch.unique(_as_bits(keys_P), return_inverse=True)
    first_P = _firsts(inverse_P)[inverse_P]
    bits_PC = _as_bits(x_PC)
    same_P = (bits_PC == bits_PC[first_P]).all(1)
    # A row whose key is another row's by chance stays alone: that costs a product, never the result.
    alone_P = torch.arange(x_PC.shape[0], device=x_PC.device)
    return torch.where(same_P, first_P, alone_P).to(torch.int32).unsqueeze(0)


def _fake(x_PC: Tensor) -> Tensor:
    return x_PC.new_empty(1, x_PC.shape[0], dtype=torch.int32)


equal_rows = Op(
    "equal_rows",
    "(Tensor x) -> Tensor",
    stage="hash",
    implementation=_run,
    fake=_fake,
)
