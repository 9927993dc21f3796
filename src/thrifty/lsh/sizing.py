"""size_tables: K, L and bucket size for training, by rule from width, active share and a budget of time.

A class at the angle a of a query shares its bucket in one table with the probability (1 - a / pi)^K, one at a right
angle with 2^-K. Votes are then sums of such chances: of a class that is near one of the R rows of a batch

    Bin(L, (1 - a / pi)^K) + Bin((R - 1) L, 2^-K)      against      Bin(R L, 2^-K)      of all others

and the active set are the A classes with the most votes. So the share of the near classes that is active follows from
K, L, R, N and A in closed form; more tables and fewer bits find more and cost more, in memory and, by `lsh.cost`, in
time. The rule takes, of all K and L that fit both budgets, what finds most. Hash functions are taken as independent,
other classes as random, and buckets as equally full; real ones are not, so it is a first choice, which `hash_report`
checks.
Source of the chances: Charikar, STOC 2002 (SimHash).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thrifty.core.errors import UsageError
from thrifty.lsh.cost import Prediction, predict_head, predict_hidden
from thrifty.lsh.family import draw_macs
from thrifty.lsh.hashing import Hashing, Sizes, sizes_for
from thrifty.ops.inner_product import augment_classes, augment_queries, centre_of

ANGLE = 60.0  # degrees between a query and its best classes: after some training
MOST_TABLES = 24
LEAST_LOAD = 4  # classes a bucket
_SAME = 0.005  # recall that is not worth a longer step


@dataclass(frozen=True)
class Sized:
    """The chosen tables.

    Attributes:
        hashing: with `tables`, `bits` and `capacity` filled in.
        recall: the share of the classes at the given angle that a step is expected to compute.
        step_s: predicted seconds of a step on one core, with the layer's own work.
        fits: whether the step keeps to the budget; if not, this is the cheapest.
    """

    hashing: Hashing
    recall: float
    step_s: float
    fits: bool


def size_tables(
    classes: int,
    features: int,
    *,
    rows: int,
    active: int,
    budget_s: float | None = None,
    angle: float = ANGLE,
    shared: bool = True,
    hidden: bool = False,
    hashing: Hashing | None = None,
) -> Sized:
    """Choose K, L and the bucket size for training a layer.

    Args:
        classes, features: N and D.
        rows: of a batch.
        active: classes that a step computes; by row where they are not shared.
        budget_s: seconds that a step may take on one core, as `lsh.cost` predicts them; half of the dense step where
            None.
        angle: degrees between a query and the classes it should find; `best_angle` measures it.
        shared: whether the batch has one active set.
        hidden: whether it is a hidden layer (`LSH`), whose optimizer is the same either way, not a wide output.
        hashing: family, memory share and all else; its `tables`, `bits` and `capacity` are chosen anew.

    Raises:
        UsageError: for numbers that cannot be meant, and winner-take-all codes, whose chances are others.
    """
    base = hashing or Hashing()
    if min(classes, features, rows, active) < 1 or not 0 < angle < 90 or (budget_s is not None and not budget_s > 0):
        raise UsageError("size_tables: sizes must be at least 1, angle between 0 and 90 degrees, budget_s above 0")
    if base.family == "wta":
        raise UsageError("size_tables: the rule is for codes of sign bits; give bits and tables of 'wta' yourself")
    active, found = min(active, classes), []
    for setting, size in _sizes(base, classes, features):
        macs = draw_macs(setting, features + 2, size)
        cost = (
            predict_hidden(rows, features, classes, active, size, shared, macs)
            if hidden
            else predict_head(rows, features, classes, active, size)
        )
        recall = expected_recall(classes, rows if shared else 1, size.tables, size.bits, active, angle)
        found.append((setting, recall, cost))
    fit = [entry for entry in found if _within(entry[2], budget_s)]
    if not fit:
        setting, recall, cost = min(found, key=lambda entry: entry[2].hashed_s)
        return Sized(setting, recall, cost.hashed_s, False)
    most = max(recall for _, recall, _ in fit)
    near = [entry for entry in fit if entry[1] >= most - _SAME]
    setting, recall, cost = min(near, key=lambda entry: entry[2].hashed_s)
    return Sized(setting, recall, cost.hashed_s, True)


def _within(cost: Prediction, budget_s: float | None) -> bool:
    return cost.hashed_s <= (cost.dense_s / 2 if budget_s is None else budget_s)


def _sizes(base: Hashing, classes: int, features: int) -> Iterator[tuple[Hashing, Sizes]]:
    """Every K and L that fit the memory; the smallest where none does."""
    most_bits = max(1, int(math.log2(max(classes / LEAST_LOAD, 2))))
    fitting = False
    for bits in range(1, min(most_bits, 20) + 1):
        for tables in range(1, MOST_TABLES + 1):
            size = sizes_for(replace(base, bits=bits, tables=tables, capacity=None), classes, features)
            if size.bytes > base.memory_share * 4 * features * classes:
                break
            fitting = True
            yield replace(base, bits=bits, tables=tables, capacity=size.capacity), size
    if not fitting:
        size = sizes_for(replace(base, bits=most_bits, tables=1, capacity=None), classes, features)
        yield replace(base, bits=most_bits, tables=1, capacity=size.capacity), size


def expected_recall(classes: int, rows: int, tables: int, bits: int, active: int, angle: float = ANGLE) -> float:
    """The share of the classes at `angle` degrees of one of `rows` queries that are among the `active` most voted."""
    hit, chance = (1 - angle / 180) ** bits, 0.5**bits
    near = _convolved(_binomial(tables, hit), _binomial((rows - 1) * tables, chance))
    others = _binomial(rows * tables, chance)
    above, room = 0.0, active / classes
    for votes in range(max(len(near), len(others)) - 1, 0, -1):
        at = float(others[votes]) if votes < len(others) else 0.0
        if above + at > room:  # the last places go to some of those with just so many votes
            share = (room - above) / at
            return min(1.0, float(near[votes + 1 :].sum()) + share * float(near[votes : votes + 1].sum()))
        above += at
    return min(1.0, float(near[1:].sum()))  # without a vote nothing is chosen


def best_angle(weight: Tensor, bias: Tensor | None, queries: Tensor, k: int = 10) -> float:
    """The median angle, in degrees, between queries (R, D) and their k best classes as they are hashed.

    Raises:
        UsageError: for sizes that do not fit, and k out of range.
    """
    if queries.dim() != 2 or queries.shape[1:] != weight.shape[1:] or not len(queries) or not 1 <= k <= len(weight):
        raise UsageError(
            f"best_angle: queries {tuple(queries.shape)} and k={k} do not fit weights {tuple(weight.shape)}"
        )
    with torch.no_grad():
        best = torch.nn.functional.linear(queries, weight, bias).topk(k, dim=1).indices
        centre = centre_of(weight.float(), None if bias is None else bias.float())
        classes = augment_classes(
            weight[best.flatten()].float(), None if bias is None else bias[best.flatten()].float(), centre
        )
        asked = augment_queries(queries.float()).repeat_interleave(k, 0)
        cosine = torch.nn.functional.cosine_similarity(asked, classes)
        return math.degrees(float(cosine.clamp(-1, 1).acos().median()))


def _binomial(n: int, p: float) -> Tensor:
    """The chances of 0, 1, ... successes, up to where they vanish; float64."""
    most = min(n, int(n * p + 12 * math.sqrt(n * p) + 24))
    k = torch.arange(most + 1, dtype=torch.float64)
    if p >= 1.0 or n == 0:
        return (k == n).double()
    whole = torch.tensor(float(n), dtype=torch.float64)
    ways = torch.lgamma(whole + 1) - torch.lgamma(k + 1) - torch.lgamma(whole - k + 1)
    return (ways + k * math.log(p) + (n - k) * math.log1p(-p)).exp()


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    """The distribution of the sum."""
    out = torch.zeros(len(a) + len(b) - 1, dtype=torch.float64)
    for i, value in enumerate(a.tolist()):
        out[i : i + len(b)] += value * b
    return out
