"""What a training step costs, dense and hashed: the model behind the choice to leave a layer dense.

A step of a wide layer of N classes and D features on R rows, forward, backward and optimizer:

    dense:   6 R N D / gemm  +  exp R N  +  16 N D / update        (softmax; Adam moves 16 bytes a weight, read and
    written) hashed:  6 R A D / gemm  +  exp R A  +  A (gather + update)  +  hashing  +  visits  +  overhead

with A active classes. The rates are those of a core of a server of 2024 unless `calibrate` has measured this machine,
so that the choice is the same in every run until somebody asks for a measurement. Both sides are spread over the same
threads, so only their ratio counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from thrifty.lsh.hashing import Sizes


class SlowerThanDenseWarning(UserWarning):
    """A layer was hashed by force where the dense one is predicted to be faster."""


@dataclass(frozen=True)
class Rates:
    """Seconds for one unit of each kind of work, on one core.

    Attributes:
        gemm_s: a multiply-add of a matrix product.
        entry_s: a multiply-add of `sampled_mm`, where each row has its own classes.
        exp_s: a score through softmax and its gradient.
        update_s: a weight through the optimizer.
        gather_s: a number of a row copied from a random place.
        visit_s: a slot of a bucket looked at.
        overhead_s: a hashed step, besides all that.
    """

    gemm_s: float = 1.6e-11
    entry_s: float = 1.2e-10
    exp_s: float = 4.0e-9
    update_s: float = 1.5e-9
    gather_s: float = 4.0e-10
    visit_s: float = 4.0e-9
    overhead_s: float = 1.0e-3


_rates = Rates()


def rates() -> Rates:
    """The rates in use."""
    return _rates


@dataclass(frozen=True)
class Prediction:
    """Seconds of a training step on one core, dense and hashed."""

    dense_s: float
    hashed_s: float

    @property
    def pays(self) -> bool:
        """Whether hashing is the faster one."""
        return self.hashed_s < self.dense_s


def predict_head(rows: int, features: int, classes: int, active: int, size: Sizes, probes: int = 1) -> Prediction:
    """A step of a wide output layer with `active` classes in it, labels and tail included."""
    r = _rates
    dense = rows * classes * (3 * features * r.gemm_s + r.exp_s) + classes * features * r.update_s
    hashing = rows * size.tables * size.bits * features * r.gemm_s
    visits = rows * size.tables * probes * size.capacity * r.visit_s
    each = features * (r.update_s + 3 * r.gather_s + size.tables * size.bits * r.gemm_s) + size.tables * r.visit_s * 4
    hashed = rows * active * (3 * features * r.gemm_s + r.exp_s) + active * each + hashing + visits + r.overhead_s
    return Prediction(dense, hashed)


def predict_hidden(
    rows: int, features: int, classes: int, active: int, size: Sizes, shared: bool, hash_macs: int
) -> Prediction:
    """A step of a hidden layer, forward and backward; the optimizer is the same for both."""
    r = _rates
    dense = 3 * rows * classes * features * r.gemm_s
    work = 3 * rows * active * features * (r.gemm_s if shared else r.entry_s)
    around = rows * (hash_macs * r.gemm_s + size.tables * size.capacity * r.visit_s + classes * r.gather_s)
    return Prediction(dense, work + around + active * features * r.gather_s + r.overhead_s)


def calibrate(budget_s: float = 5.0) -> Rates:
    """Measure this machine, on the threads that torch now uses, and choose by it from now on; returns the rates."""
    from thrifty.ops.adam_rows import adam_rows
    from thrifty.ops.sampled_mm import pattern_of, sampled_mm

    global _rates
    share = budget_s / 5
    x, w = torch.randn(128, 128), torch.randn(8192, 128)
    gemm = _seconds(lambda: x @ w.T, share) / (128 * 8192 * 128)
    scores = torch.randn(128, 8192)
    exp = 2 * _seconds(lambda: torch.log_softmax(scores, 1), share) / scores.numel()
    big = torch.zeros(1 << 16, 128)
    some = torch.randperm(1 << 16)[:4096].sort().values
    gather = _seconds(lambda: big.index_select(0, some), share) / (4096 * 128)
    first, second = torch.zeros(1 << 16, 128), torch.zeros(1 << 16, 128)
    last = torch.zeros(1 << 16, dtype=torch.int32)
    update = _seconds(
        lambda: adam_rows(some, w[:4096], 1, 1.0, 1e-9, 1.0, 0.9, 0.99, 1e-8, big, first, second, last), share
    ) / (4096 * 128)  # fmt: skip
    pattern = pattern_of(torch.arange(0, 128 * 64 + 1, 64), torch.randint(8192, (128 * 64,), dtype=torch.int32), 8192)
    entry = _seconds(lambda: sampled_mm(x, w, *pattern), share) / (128 * 64 * 128)
    measured = Rates(gemm, entry, exp, update, gather)
    _rates = measured
    return measured


def use(chosen: Rates) -> None:
    """Choose by these rates from now on. Raises ValueError for one that is not a positive number."""
    global _rates
    for field in fields(chosen):
        if not 0 < getattr(chosen, field.name) < 1:
            raise ValueError(
                f"Rates.{field.name} must be seconds above 0 and below 1, got {getattr(chosen, field.name)}"
            )
    _rates = chosen


def _seconds(call: Callable[[], object], budget_s: float) -> float:
    """The shortest of some calls, that many of them that the budget is used up at most."""
    call()
    best, start = float("inf"), time.perf_counter()
    for _ in range(50):
        before = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - before)
        if time.perf_counter() - start > budget_s:
            break
    return best
