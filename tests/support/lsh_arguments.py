"""Right arguments of the native functions of hashed layers and row optimizers, for the test that makes them wrong."""

import torch

ROWS, CHANNELS, TABLES, BITS, CLASSES, BUCKETS, CAPACITY, PROBES, ENTRIES, LIMIT, K = 6, 7, 3, 4, 20, 8, 5, 2, 9, 4, 3
STEPS = 11


def floats(*shape):
    return torch.full(shape, 0.5)


def int32s(*shape):
    return torch.zeros(shape, dtype=torch.int32)


def int64s(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def doubles(*shape):
    return torch.full(shape, 0.5, dtype=torch.float64)


def slots():
    return int32s(TABLES, BUCKETS, CAPACITY)


def sizes():
    return torch.ones(TABLES, BUCKETS, dtype=torch.int32)


def rows():
    return torch.tensor([1, 5, 19])


def matrix():
    return floats(CLASSES, CHANNELS)


def last():
    return int32s(CLASSES)


def steps(most):
    return torch.tensor([0, 2, 2, 5, 6, 8, most])


# function -> makers of its arguments in order, and the positions of what it writes without reading it
TABLE = {
    "pack_signs": (
        [lambda: floats(ROWS, TABLES * BITS), lambda: floats(TABLES, BITS), lambda: int32s(ROWS, TABLES)], (2,)
    ),
    "probe_signs": (
        [lambda: floats(ROWS, TABLES * BITS), lambda: floats(TABLES, BITS), lambda: int32s(PROBES, 2),
         lambda: int32s(ROWS, TABLES, PROBES)], (3,)
    ),
    "sparse_project": (
        [lambda: floats(ROWS, CHANNELS), lambda: int32s(ENTRIES, 2), lambda: floats(ENTRIES, 2),
         lambda: floats(ROWS, ENTRIES)], (3,)
    ),
    "wta_hash": (
        [lambda: floats(ROWS, CHANNELS), lambda: int32s(TABLES, BITS, 3), lambda: 5, lambda: int32s(ROWS, TABLES)], (3,)
    ),
    "min_hash": (
        [lambda: steps(ENTRIES), lambda: int64s(ENTRIES), lambda: 2, lambda: 3, lambda: 1,
         lambda: int32s(ROWS, TABLES)], (5,)
    ),
    "table_update": (
        [rows, lambda: 0, lambda: int32s(3, TABLES), lambda: False, lambda: 1, slots, sizes,
         sizes, lambda: int32s(TABLES, CLASSES) - 1], ()
    ),
    "active_set": (
        [lambda: int32s(ROWS, TABLES, PROBES), slots, sizes, rows, lambda: 4, lambda: 5, lambda: 1,
         lambda: int32s(CLASSES), lambda: int64s(12), lambda: torch.zeros(12, dtype=torch.uint8),
         lambda: int64s(2)], (10,)
    ),
    "row_candidates": (
        [lambda: int32s(ROWS, TABLES, PROBES), slots, sizes, lambda: int32s(ROWS, LIMIT), lambda: int64s(ROWS)], (4,)
    ),
    "rank_top": (
        [lambda: floats(ROWS, CHANNELS), matrix, lambda: floats(CLASSES), lambda: int32s(ROWS, LIMIT),
         lambda: int64s(ROWS) + 2, lambda: int64s(ROWS, K), lambda: floats(ROWS, K)], (5, 6)
    ),
    "sampled_mm": (
        [lambda: floats(ROWS, CHANNELS), matrix, lambda: steps(ENTRIES), lambda: int32s(ENTRIES),
         lambda: floats(ENTRIES)], (4,)
    ),
    "sparse_mm": (
        [lambda: steps(ENTRIES), lambda: int32s(ENTRIES), lambda: floats(ENTRIES), matrix,
         lambda: floats(ROWS, CHANNELS)], (4,)
    ),
    "adam_skip": (
        [rows, lambda: 9, lambda: doubles(STEPS), lambda: doubles(STEPS), lambda: doubles(STEPS), lambda: 0.9,
         lambda: 0.99, lambda: 1e-8, matrix, matrix, matrix, last], ()
    ),
    "adam_rows": (
        [rows, lambda: floats(3, CHANNELS), lambda: 9, *([lambda: 0.5] * 5), lambda: 1e-8, matrix, matrix, matrix,
         last], ()
    ),
    "sgd_skip": (
        [rows, lambda: 9, lambda: doubles(STEPS), lambda: 0.9, lambda: 0.0, lambda: False, matrix, matrix, last], ()
    ),
    "sgd_rows": (
        [rows, lambda: floats(3, CHANNELS), lambda: 9, lambda: 0.1, lambda: 0.9, lambda: 0.0, lambda: False, matrix,
         matrix, last], ()
    ),
    "adagrad_rows": (
        [rows, lambda: floats(3, CHANNELS), lambda: 0.1, lambda: 1e-8, lambda: False, matrix, matrix], ()
    ),
}  # fmt: skip
# what it reads and writes
CHANGED = {
    "table_update": (5, 6, 7, 8), "active_set": (7, 8, 9), "row_candidates": (3,), "adam_skip": (8, 9, 10, 11),
    "adam_rows": (9, 10, 11, 12), "sgd_skip": (6, 7, 8), "sgd_rows": (7, 8, 9), "adagrad_rows": (5, 6),
}  # fmt: skip
OPTIONAL = {"table_update": (0,), "rank_top": (2,)}
# (position, axis): the sizes that others are held to, or that only the contents must fit
FREE = {
    "probe_signs": {(2, 1)},
    "sparse_project": {(0, 1)},
    "wta_hash": {(0, 1), (1, 1), (1, 2)},
    "min_hash": {(5, 1)},
    "table_update": {(5, 2), (8, 1)},
    "active_set": {(0, 0), (0, 2), (1, 2), (7, 0)},
    "row_candidates": {(0, 2), (1, 2), (3, 1)},
    "rank_top": {(3, 1)},
    "adam_skip": {(0, 0), (2, 0), (3, 0), (4, 0)},
    "sampled_mm": {(1, 0)},
    "sparse_mm": {(3, 0)},
    "sgd_skip": {(0, 0), (2, 0)},
}
