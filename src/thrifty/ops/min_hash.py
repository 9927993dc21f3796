"""min_hash: the last bits of a set's smallest hash values, for binary sparse rows.

Source: Broder, 1997; Li & Koenig, WWW 2010 (b-bit minwise hashing). Two sets with Jaccard similarity J agree in one
value of b bits with probability J + (1 - J) / 2^b for sets that are small against the universe.
Cost: members * T * H hash values.
"""

import itertools

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._define import Op
from thrifty.ops._mix import MASK, mix


def reference(offsets: Tensor, members: Tensor, tables: int, hashes: int, bits: int, seed: int) -> Tensor:
    """Sets members[offsets[r] : offsets[r + 1]] -> codes (R, T)."""
    bounds, values = offsets.tolist(), members.tolist()
    codes = torch.zeros(len(bounds) - 1, tables, dtype=torch.int32)
    for row, (first, last) in enumerate(itertools.pairwise(bounds)):
        for k in range(tables * hashes if last > first else 0):
            salt = mix((seed + k) & MASK)
            least = min(mix((value & MASK) ^ salt) for value in values[first:last])
            codes[row, k // hashes] |= (least & ((1 << bits) - 1)) << (k % hashes * bits)
    return codes


def _run(offsets: Tensor, members: Tensor, tables: int, hashes: int, bits: int, seed: int) -> Tensor:
    if offsets.dtype != torch.int64 or members.dtype != torch.int64 or offsets.dim() != 1 or members.dim() != 1:
        raise ValueError("min_hash: offsets and members must be int64 vectors")
    if tables < 1 or hashes < 1 or bits < 1 or hashes * bits > 30:
        raise ValueError(f"min_hash: {tables} tables, {hashes} hashes of {bits} bits; choose at most 30 bits together")
    if not use_native() or members.device.type != "cpu":
        return reference(offsets, members, tables, hashes, bits, seed)
    codes = torch.empty(offsets.numel() - 1, tables, dtype=torch.int32)
    native.min_hash(offsets.contiguous(), members.contiguous(), hashes, bits, seed, codes)
    return codes


def _fake(offsets: Tensor, members: Tensor, tables: int, hashes: int, bits: int, seed: int) -> Tensor:
    return members.new_empty(offsets.shape[0] - 1, tables, dtype=torch.int32)


min_hash = Op("min_hash", "(Tensor offsets, Tensor members, int tables, int hashes, int bits, int seed) -> Tensor",
              stage="hash", implementation=_run, fake=_fake)  # fmt: skip


def value_collision(jaccard: float, bits: int) -> float:
    """The probability that two sets with this similarity agree in one value of `bits` bits."""
    return jaccard + (1.0 - jaccard) / 2**bits
