"""Following: tables that follow the weights of a layer while these are trained.

Rows that a step changed are hashed again every few steps; everything is made anew on a schedule that backs off, or when
a look at a sample of classes finds that codes have drifted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thrifty.lsh.hashing import Hashing
from thrifty.lsh.index import ClassIndex
from thrifty.lsh.readers import Readers
from thrifty.lsh.resume import Resumable
from thrifty.ops._stages import StageSeconds

DRIFT_EVERY = 64  # training steps between two looks at the drift


class Following(Resumable):
    """The part of a head that keeps its index up to date."""

    weight: torch.nn.Parameter
    bias: torch.nn.Parameter | None
    training: bool

    def _start(self, hashing: Hashing) -> None:
        self.hashing = hashing
        self.readers = Readers()
        self.stages = StageSeconds()
        self._forget()

    @property
    def extra_bytes(self) -> int:
        """Memory besides weights: tables and scratch."""
        return 0 if self.index is None else self.index.bytes

    def rebuild(self) -> None:
        """Fill the tables anew from the weights: after weights were changed by hand. Raises NonFiniteError."""
        self.read(None)
        with self.stages.timed("rebuild"):
            if self.index is None:
                self.index = ClassIndex(self.hashing, self.n_classes, self.in_features)
            self.index.rebuild(self.weight, self.bias)
            self._changed.clear()

    def read(self, rows: Tensor | None) -> None:
        """Tell the readers that these rows (each once; None: all) are about to be read."""
        if self.readers:
            with self.stages.timed("optimizer"), torch.no_grad():
                for reader in self.readers:
                    reader(self.weight, rows, unique=True)
                    if self.bias is not None:
                        reader(self.bias, rows, unique=True)

    def current_index(self) -> ClassIndex:
        """The index with every class where its weights now put it; built where there is none."""
        self.read(None)
        if self.index is None:
            self.rebuild()
        else:
            self.index.refresh_all(self.weight, self.bias)
            self._changed.clear()
        assert self.index is not None
        return self.index

    def take_index(self, index: ClassIndex) -> None:
        """Use tables that were made for just these weights."""
        self.index = index
        self._changed.clear()

    def follow(self) -> ClassIndex:
        """The index, brought up to what training has changed, and rebuilt where it is due."""
        if self.index is None:
            self.rebuild()
        assert self.index is not None
        if not self.training:
            self._refresh()
            return self.index
        due = self._rebuild_at and self._step >= self._rebuild_at
        if not due and self.hashing.drift < 1 and self._step and self._step % DRIFT_EVERY == 0:
            self._refresh()
            due = self.index.drift(self.weight, self.bias, self._step) > self.hashing.drift
        if due:
            self.rebuild()
            if self._rebuild_at:
                self._wait *= self.hashing.rebuild_growth
                self._rebuild_at = self._step + int(self._wait)
        elif len(self._changed) >= self.hashing.refresh_every:
            self._refresh()
        return self.index

    def _refresh(self) -> None:
        if not self._changed or self.index is None:
            return
        with self.stages.timed("refresh"):
            rows = self._changed[0] if len(self._changed) == 1 else torch.cat(self._changed).unique()
            self.index.refresh(rows, self.weight, self.bias)
            self._changed.clear()

    def _forget(self) -> None:
        """Start as with new weights."""
        self.index, self._changed, self._step = None, [], 0
        self._wait, self._rebuild_at = float(self.hashing.rebuild_first), self.hashing.rebuild_first

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)  # type: ignore[misc]
        self._forget()  # tables of the old weights; made anew at the next use
