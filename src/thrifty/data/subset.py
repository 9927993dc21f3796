"""A part of a split that keeps the shares of the classes."""

import numpy as np

from thrifty.core.errors import UsageError

from .draws import Purpose, permutation


def stratified(labels: np.ndarray, limit: int | None, *, seed: int) -> np.ndarray:
    """Return the indexes, int64 ascending, of `limit` of the labels (N,), drawn from every class in its share.

    Shares that are no whole numbers are rounded by the largest remainder. None, or a limit of N or more, keeps all.
    Raises UsageError when the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} images leaves nothing: give 1 or more, or no limit")
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    shuffled = permutation(seed, Purpose.SUBSET, len(labels))
    classes, inverse, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    exact = counts * limit
    quota = exact // len(labels)
    # Equal remainders go to the class that the shuffle shows first, so that no class is favoured by its number.
    first_seen = np.full(len(classes), len(labels))
    np.minimum.at(first_seen, inverse, np.arange(len(labels)))
    most_due = np.lexsort((first_seen, -(exact % len(labels))))
    quota[most_due[: limit - int(quota.sum())]] += 1
    grouped = np.argsort(inverse, kind="stable")
    starts = np.cumsum(counts) - counts
    chosen = [grouped[start : start + take] for start, take in zip(starts, quota, strict=True)]
    return np.sort(shuffled[np.concatenate(chosen)])
