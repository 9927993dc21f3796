"""table_update: puts classes into the buckets of hash tables, or moves them from one bucket to another.

A table is flat memory: slots (T, B, C) int32 of class ids, sizes (T, B) int32 used slots, seen (T, B) int32 classes
offered and not taken back, codes (T, N) int32 the bucket of each class, -1 for none.
A full bucket keeps a uniform sample of what was offered (reservoir; Vitter 1985: the n-th offer takes a random slot
with probability C / n) or the latest C (fifo). Deviation from the predecessors, one of which accepted with 1 / n.
Which slot is a hash of (seed, table, bucket, offers), so the tables depend on nothing but the order of the calls.
"""

import torch
from torch import Tensor

from thrifty._load_native import native
from thrifty.ops._backend import use_native
from thrifty.ops._mix import draw_below, mix


def reference(
    rows: Tensor, fresh_RT: Tensor, fifo: bool, seed: int, slots: Tensor, sizes: Tensor, seen: Tensor, codes: Tensor
) -> None:
    """Move every row of `rows` (R,) to the buckets `fresh_RT` (R, T), in order; in place."""
    tables, buckets, capacity = slots.shape
    for t in range(tables):
        for row, code in zip(rows.tolist(), fresh_RT[:, t].tolist(), strict=True):
            old = int(codes[t, row])
            if old == code:
                continue
            if old >= 0:
                seen[t, old] -= 1
                kept = slots[t, old, : int(sizes[t, old])].tolist()
                if row in kept:
                    at = kept.index(row)
                    if fifo:
                        del kept[at]
                    else:
                        kept[at] = kept[-1]
                        kept.pop()
                    slots[t, old, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
                    sizes[t, old] = len(kept)
            codes[t, row] = code
            random = mix(seed ^ mix(((t * buckets + code) << 32) | int(seen[t, code])))
            seen[t, code] += 1
            size = int(sizes[t, code])
            if size < capacity:
                slots[t, code, size] = row
                sizes[t, code] += 1
            elif fifo:
                slots[t, code] = torch.cat([slots[t, code, 1:], torch.tensor([row], dtype=torch.int32)])
            else:
                slot = draw_below(random, int(seen[t, code]))
                if slot < capacity:
                    slots[t, code, slot] = row


def table_update(
    rows: Tensor | range,
    fresh_RT: Tensor,
    fifo: bool,
    seed: int,
    slots: Tensor,
    sizes: Tensor,
    seen: Tensor,
    codes: Tensor,
) -> None:
    """Move classes to new buckets, in place; a class whose bucket is the old one stays where it is.

    Args:
        rows: int64 (R,), each class once, or a range of step 1.
        fresh_RT: int32 (R, T), their codes in [0, B).
        fifo: whether full buckets keep the latest rather than a uniform sample.
        seed: in [0, 2^63).
        slots, sizes, seen, codes: the tables; see the head of this file.

    Raises:
        ValueError: for rows, codes or sizes that do not fit the tables; nothing is changed.
    """
    listed = torch.arange(rows.start, rows.stop) if isinstance(rows, range) else rows
    if use_native() and slots.device.type == "cpu":
        first = rows.start if isinstance(rows, range) else 0
        native.table_update(
            None if isinstance(rows, range) else rows, first, fresh_RT, fifo, seed, slots, sizes, seen, codes
        )
        return
    tables, buckets, _ = slots.shape
    if fresh_RT.shape != (len(listed), tables) or codes.shape[0] != tables:
        raise ValueError(
            f"fresh: {tuple(fresh_RT.shape)} codes for {len(listed)} rows, expected ({len(listed)}, {tables})"
        )
    if len(listed) and (int(listed.min()) < 0 or int(listed.max()) >= codes.shape[1]):
        raise ValueError(f"rows: holds values out of range: expected 0 to {codes.shape[1]} - 1 (classes)")
    if fresh_RT.numel() and (int(fresh_RT.min()) < 0 or int(fresh_RT.max()) >= buckets):
        raise ValueError(f"fresh: holds values out of range: expected 0 to {buckets} - 1 (buckets)")
    reference(listed, fresh_RT, fifo, seed, slots, sizes, seen, codes)
