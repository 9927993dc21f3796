"""HashedHead: the weights of a wide output layer, the index over them, and the choice of classes for a batch.

A training step computes one set of classes for the whole batch: the head that the tables and the labels name, and a
random tail that stands for all other classes with a weight (see `ops.active_set`). Scores of the set are one matrix
product. Rows changed by the optimizer since are hashed again when the next batches come.
The tail is drawn uniformly, or by given frequencies: then it should follow the scores, as popularity does.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from thrifty.core.errors import UsageError
from thrifty.core.seeds import derive_seed
from thrifty.lsh.cost import SlowerThanDenseWarning, predict_head
from thrifty.lsh.draws import Draws, draws_by
from thrifty.lsh.following import Following
from thrifty.lsh.hashing import Hashing, sizes_for
from thrifty.ops.active_set import ActiveSet
from thrifty.ops.take_rows import take_rows

WHEN = ("auto", "hashed", "dense")


class Chosen(NamedTuple):
    """Scores (R, A) of the chosen classes, `ids` int64 (A,) ascending; the tail's weight is in the scores as a
    logarithm.
    """

    scores: Tensor
    ids: Tensor


class HashedHead(Following, nn.Module):
    """Weight (N, D) and bias (N,) of `nn.Linear(in_features, n_classes)`, with its state_dict keys, and an index.

    Args:
        in_features: D.
        n_classes: N.
        bias: whether there is one.
        active: classes taken from the hash tables in a training step, at most.
        tail: classes drawn at random in a training step, to stand for all the rest. 0 leaves the rest out, as SLIDE
            does; the loss is then too small by what was not found.
        distribution: what the tail is drawn by: `uniform`, each class once at most; `log-uniform`, for classes sorted
            by falling frequency; or a tensor (N,) of frequencies. The last two draw with replacement.
        hashing: settings of the tables.
        when: `auto` computes all classes where that is predicted to be faster (see `lsh.cost`), `hashed` never does and
            warns, once, where it should have; `dense` always does.
        sparse: whether gradients hold the active rows alone, for the lazy optimizers and `torch.optim.SparseAdam`.
        device, dtype: as `nn.Linear`.

    Attributes:
        stages: seconds by stage since the last reset (`hash`, `query`, `gather`, `gemm`,
            `backward`, `refresh`, `rebuild`, `optimizer`).
        last: head and tail of the last training step, or None.
        log_weights: for each of its classes the logarithm of how many it stands for, 0 in the head; None without tail.

    Raises:
        UsageError: for sizes that cannot be meant.
    """

    bias: nn.Parameter | None
    log_q: Tensor | None
    cumulative: Tensor | None

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        bias: bool = True,
        *,
        active: int = 1024,
        tail: int = 1024,
        distribution: str | Tensor = "uniform",
        hashing: Hashing | None = None,
        when: str = "auto",
        sparse: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or n_classes < 1:
            raise UsageError(f"a layer needs at least one feature and one class, got {in_features} and {n_classes}")
        if active < 0 or tail < 0:
            raise UsageError(f"active and tail must be from 0 on, got {active} and {tail}")
        self.in_features, self.n_classes, self.active, self.tail = in_features, n_classes, active, tail
        if when not in WHEN:
            raise UsageError(f"when is {when!r}: choose one of {', '.join(WHEN)}")
        self.when, self.sparse = when, sparse
        self.weight = nn.Parameter(torch.empty(n_classes, in_features, device=device, dtype=dtype))
        made = nn.Parameter(torch.empty(n_classes, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", made)
        plain = isinstance(distribution, str) and distribution == "uniform"
        self._draw_by(None if plain else draws_by(distribution, n_classes))
        self._start(hashing or Hashing())
        self.last: ActiveSet | None = None
        self.log_weights: Tensor | None = None
        self._warned = False
        self._since: float | None = None
        self.reset_parameters()

    @classmethod
    def from_linear(cls, linear: nn.Linear, **settings: Any) -> Self:
        """The loss over the outputs of `linear`, which goes on to hold the very same parameters."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta", **settings)
        made.register_parameter("weight", linear._parameters["weight"])
        made.register_parameter("bias", linear._parameters["bias"])
        return made.train(linear.training)

    def reset_parameters(self) -> None:
        """As `nn.Linear`."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes, for `repr`."""
        return f"{self.in_features}, {self.n_classes}, active={self.active}, tail={self.tail}"

    def _draw_by(self, draws: Draws | None) -> None:
        for name in Draws._fields:
            self.register_buffer(name, None if draws is None else getattr(draws, name), persistent=False)

    @property
    def draws(self) -> Draws | None:
        """What classes are drawn by; None for a uniform tail."""
        return None if self.log_q is None or self.cumulative is None else Draws(self.log_q, self.cumulative)

    def scores(self, x: Tensor) -> Tensor:
        """All scores (..., N): the dense layer."""
        self.read(None)
        return nn.functional.linear(x, self.weight, self.bias)

    def choose(self, x_RD: Tensor, forced: Tensor) -> Chosen:
        """Scores of a batch's head and tail, for queries (R, D); `forced` int64 classes are always of the head.

        Raises:
            NonFiniteError: for NaN or infinity in the queries or, at a rebuild, in the weights.
        """
        active, tail = min(self.active, self.n_classes), min(self.tail, self.n_classes)
        if self._dense_is_faster(len(x_RD), min(self.n_classes, active + tail + forced.numel())):
            self.last = ActiveSet(torch.arange(self.n_classes), torch.zeros(self.n_classes, dtype=torch.bool),
                                  self.n_classes, 0)  # fmt: skip
            self.log_weights = None
            with self.stages.timed("gemm"):
                return Chosen(self.scores(x_RD), self.last.ids)
        index = self.follow()
        with self.stages.timed("hash"):
            codes = index.query_codes(x_RD)
        with self.stages.timed("query"):
            whole = self.draws is None or not tail
            found = index.active(codes, forced, active, tail if whole else 0, self._step)
            self.last, self.log_weights = _uniform(found, self.n_classes) if whole else self._drawn(found.ids, tail)
            found = self.last
        self._step += 1
        # Rows of the tail move little, and others each time: hashing them again is left to the look at the drift.
        self._changed.append(found.ids[~found.drawn])
        return Chosen(self._scores_of(x_RD, found.ids), found.ids)

    def _drawn(self, head: Tensor, count: int) -> tuple[ActiveSet, Tensor]:
        """The head and a tail drawn by frequency, and what each class stands for."""
        assert self.draws is not None
        tail, log_weights = self.draws.tail(head, count, derive_seed(self.hashing.seed, "tail", self._step))
        ids, order = torch.cat([head, tail]).sort()
        drawn = order >= len(head)
        log_weights = torch.cat([log_weights.new_zeros(len(head)), log_weights])[order]
        return ActiveSet(ids, drawn, len(head), len(tail)), log_weights

    def _dense_is_faster(self, rows: int, active: int) -> bool:
        if self.when == "dense":
            return True
        size = sizes_for(self.hashing, self.n_classes, self.in_features)
        found = predict_head(rows, self.in_features, self.n_classes, active, size, self.hashing.probes)
        if not found.pays and self.when == "hashed" and not self._warned:
            self._warned = True
            warnings.warn(
                f"hashing {self.n_classes} classes is predicted to take {found.hashed_s * 1e3:.2f} ms a step, dense "
                f"{found.dense_s * 1e3:.2f} ms; when='auto' takes the faster one",
                SlowerThanDenseWarning,
                stacklevel=5,
            )
        return not found.pays and self.when == "auto"

    def _scores_of(self, x_RD: Tensor, ids: Tensor) -> Tensor:
        weight_AD, offset_A = self.rows(ids)
        with self.stages.timed("gemm"):
            if self.log_weights is not None:
                correction = self.log_weights.to(x_RD.dtype)
                offset_A = correction if offset_A is None else offset_A + correction
            return nn.functional.linear(x_RD, weight_AD, offset_A)

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights (A, D) and biases (A,) of classes `ids` (ascending, each once); their gradients hold these alone."""
        self.read(ids)
        with self.stages.timed("gather"):
            weight_AD = take_rows(self.weight, ids, self.sparse)
            bias_A = None if self.bias is None else take_rows(self.bias, ids, self.sparse)
        if weight_AD.requires_grad and not torch._C._are_functorch_transforms_active():
            weight_AD.register_hook(self._backward_ends)
        return weight_AD, bias_A

    def clocked(self, loss: Tensor) -> Tensor:
        """The loss itself; the seconds from its gradient to that of the rows it came from are booked as `backward`."""
        if loss.requires_grad and not torch._C._are_functorch_transforms_active():
            loss.register_hook(self._backward_begins)
        return loss

    def _backward_begins(self, _: Tensor) -> None:
        self._since = time.perf_counter()

    def _backward_ends(self, _: Tensor) -> None:
        if self._since is not None:
            self.stages.add("backward", time.perf_counter() - self._since)
        self._since = None

    def topk(
        self, x: Tensor, k: int, *, probes: int = 8, candidates: int = 4096, exact: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k classes with the largest scores for queries (..., D): values and ids (..., k), best first.

        Args:
            x: queries.
            k: from 1 to N.
            probes: buckets that a query looks into in each table: more find more and take longer.
            candidates: classes that are scored exactly, at most.
            exact: score all classes instead.

        Where fewer than k candidates are found, the query is answered exactly.

        Raises:
            UsageError: for a k out of range.
        """
        if not 1 <= k <= self.n_classes:
            raise UsageError(f"topk: k must be from 1 to the {self.n_classes} classes, got {k}")
        with torch.no_grad():
            flat = x.detach().reshape(-1, self.in_features)
            if exact:
                found = self.scores(flat).topk(k, dim=1)
                values, ids = found.values, found.indices
            else:
                self.read(None)
                index = self.follow()
                probes = 1 if self.hashing.family == "wta" else probes
                flat = flat.float()
                values, ids = index.topk(flat, self.weight, self.bias, k, probes, min(candidates, self.n_classes))
                short = (ids[:, -1] < 0).nonzero().flatten()
                if len(short):
                    rest = nn.functional.linear(flat[short], self.weight.float(), _float(self.bias)).topk(k, dim=1)
                    values[short], ids[short] = rest.values, rest.indices
            return values.view(*x.shape[:-1], k), ids.view(*x.shape[:-1], k)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


def _uniform(found: ActiveSet, classes: int) -> tuple[ActiveSet, Tensor | None]:
    """The set itself, and what each of its classes stands for: the tail shares what is not in the head."""
    return found, found.drawn.float() * math.log((classes - found.head) / found.tail) if found.tail else None
