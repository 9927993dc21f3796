"""Resumable: what a wide head needs besides its weights to go on bit for bit, kept apart from its state_dict.

The state_dict has the keys of `nn.Linear` alone, so that the weights load into one; without this state the tables are
built from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thrifty.core.errors import CheckpointError
from thrifty.lsh.hashing import Hashing
from thrifty.lsh.index import ClassIndex


class Resumable:
    """The part of a head that saves and loads its counters and tables."""

    n_classes: int
    in_features: int
    hashing: Hashing
    index: ClassIndex | None
    _changed: list[Tensor]
    _step: int
    _wait: float
    _rebuild_at: int

    def index_state(self) -> dict[str, Any]:
        """What a resumed training needs besides the weights, to go on bit for bit: counters and tables.

        Without it the tables are built from the loaded weights, and the training goes on as well, on other random
        classes.
        """
        state: dict[str, Any] = {
            "classes": self.n_classes, "features": self.in_features, "seed": self.hashing.seed,
            "family": self.hashing.family, "step": self._step, "wait": self._wait, "rebuild_at": self._rebuild_at,
            "changed": [rows.clone() for rows in self._changed],
        }  # fmt: skip
        if self.index is not None and self.index.tables is not None:
            state["tables"] = self.index.state()
        return state

    def load_index_state(self, state: dict[str, Any]) -> None:
        """Take over such a state, after the weights.

        Raises:
            CheckpointError: when it is damaged, or of a layer of other sizes, hash family or seed; nothing is changed.
        """
        mine = (self.n_classes, self.in_features, self.hashing.seed, self.hashing.family)
        try:
            if not isinstance(state, Mapping):
                raise TypeError("it is no mapping")
            theirs = tuple(state[name] for name in ("classes", "features", "seed", "family"))
            if not all(type(value) in (int, str) for value in theirs):
                raise ValueError("it does not name its layer")
            if theirs != mine:
                raise CheckpointError(
                    f"the tables are of another layer: classes, features, seed and family {theirs}, here {mine}; "
                    "leave them out, and they are built from the weights"
                )
            index = None
            if "tables" in state:
                index = ClassIndex(self.hashing, self.n_classes, self.in_features)
                index.load_state(state["tables"])
            step, wait, rebuild_at = int(state["step"]), float(state["wait"]), int(state["rebuild_at"])
            changed = [self._rows(rows) for rows in state["changed"]]
            if not math.isfinite(wait):
                raise ValueError("a wait without an end")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise CheckpointError(
                f"the tables' state is damaged ({error!r}); leave it out, and they are built from the weights"
            ) from error
        self.index, self._step, self._wait, self._rebuild_at, self._changed = index, step, wait, rebuild_at, changed

    def _rows(self, rows: Tensor) -> Tensor:
        """A copy of ids of classes. Raises ValueError for anything else."""
        if rows.dtype != torch.int64 or rows.dim() != 1 or rows.layout is not torch.strided or rows.is_meta:
            raise ValueError("the classes that changed are no list of classes")
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < self.n_classes:
            raise ValueError(f"the classes that changed are out of range: expected 0 to {self.n_classes} - 1")
        return rows.clone()
