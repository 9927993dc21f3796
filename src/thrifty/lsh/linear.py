"""LSHLinear: a hidden layer that computes, for each input, only the neurons that hashing finds.

Source: Spring & Shrivastava, KDD 2017 (arXiv 1602.08194): hash the input, look its buckets up, compute and train the
neurons in them; others answer zero. What the tables find more often is kept first. Gradients are those of the computed
neurons, exactly, to any order. Training and evaluation choose alike, as the next layer has learnt from such outputs.
Deviations: inner products are turned into angles (the paper's code hashes weights as they are); no pooling of inputs;
tables follow the weights on a schedule without end. Where an input has fewer neighbours than `active`, fewer neurons
are computed.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thrifty.core.counters import LayerCounters
from thrifty.core.errors import ModelError
from thrifty.core.surgery import restore
from thrifty.lsh.config import LSH
from thrifty.lsh.index import ClassIndex
from thrifty.ops import _stages
from thrifty.ops._backend import exporting
from thrifty.ops.sampled_mm import pattern_of, sampled_mm


class LSHState:
    """What a hashed layer carries besides its stock parameters."""

    def __init__(self, name: str, config: LSH, features: int, neurons: int) -> None:
        self.name, self.config = name, config
        self.index = ClassIndex(config.hashing, neurons, features)
        self.limit = max(1, int(config.active * neurons))
        self.counters = LayerCounters()
        self.seconds = _stages.StageSeconds()
        self.steps = 0
        self.warned = False
        self.row: dict[str, Any] | None = None

    def codes(self, x_RD: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor | None:
        """Buckets of the rows, in tables that follow the weights; None where a row is not finite (warned of once)."""
        if not bool(x_RD.isfinite().all()):
            if not self.warned:
                self.warned = True
                warnings.warn(
                    f"layer {self.name!r}: its input holds NaN or infinity, so this step runs dense; look for a "
                    "diverging loss or bad data",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return None
        with _stages.timed("group"):
            if self.index.tables is None:
                self.index.rebuild(weight, bias)
            elif training and self.steps % self.config.hashing.refresh_every == 0:
                self.index.refresh(range(len(weight)), weight, bias)
        self.steps += training
        with _stages.timed("hash"):
            return self.index.query_codes(x_RD)


class LSHLinear(nn.Linear):
    """`nn.Linear` on hashed neurons; made by `thrifty.apply_`. Shapes and dtypes as `nn.Linear`."""

    method: ClassVar[str] = "lsh"
    lsh: LSHState

    @property
    def counters(self) -> LayerCounters:
        """What was done since the last reset, forward and backward."""
        state = self.lsh
        state.counters.add(stages_s={stage: state.seconds.pop(stage) for stage in list(state.seconds)})
        return state.counters

    def trace_row(self) -> dict[str, Any] | None:
        """The last step's share of computed neurons, once."""
        row, self.lsh.row = self.lsh.row, None
        return row

    def to_stock(self) -> nn.Linear:
        """The stock layer with the same parameters."""
        return restore(self, nn.Linear, drop=("lsh",))

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (..., N) with zeros where a neuron was not computed.

        Raises ModelError under torch.export, which cannot record a choice that depends on the data.
        """
        if exporting():
            raise ModelError(
                f"layer {self.lsh.name!r} chooses its neurons by the data, which torch.export cannot record: call "
                "thrifty.remove_(model) before exporting; the dense layer computes all neurons, so train it on a little"
            )
        return self._hashed(input)

    @torch.compiler.disable
    def _hashed(self, input: Tensor) -> Tensor:
        fits = input.is_floating_point() and input.dim() > 0 and input.shape[-1] == self.in_features
        device = input.device.type
        autocast = torch.is_autocast_enabled(device) and torch.float64 not in (input.dtype, self.weight.dtype)
        if not fits or not input.numel() or not (autocast or input.dtype == self.weight.dtype):
            return super().forward(input)
        x_RD = input.reshape(-1, self.in_features)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if autocast:  # the kernels compute in float32; the answer has the dtype that the stock layer's would have
            x_RD, weight, bias = x_RD.float(), weight.float(), None if bias is None else bias.float()
        with _stages.report_to(self.lsh.seconds), torch.autocast(device, enabled=False):
            codes = self.lsh.codes(x_RD.detach(), weight.detach(), bias, self.training)
            if codes is not None:
                compute = self._shared if self.lsh.config.mode == "shared" else self._each
                y_RN, done = compute(x_RD, weight, bias, codes)
        if codes is None:
            return super().forward(input)
        self._count(x_RD, done)
        if autocast:
            y_RN = y_RN.to(torch.get_autocast_dtype(device))
        return y_RN.view(*input.shape[:-1], self.out_features)

    def _each(self, x_RD: Tensor, weight: Tensor, bias: Tensor | None, codes: Tensor) -> tuple[Tensor, int]:
        """Every row its own neurons."""
        with _stages.timed("group"):
            ids, found = self.lsh.index.candidates(codes, self.lsh.limit)
            there = torch.arange(ids.shape[1]) < found.unsqueeze(1)
            columns = ids[there]
            pattern = pattern_of(nn.functional.pad(found.cumsum(0), (1, 0)), columns, self.out_features)
            rows = there.nonzero()[:, 0]
        values = sampled_mm(x_RD, weight, *pattern)
        if bias is not None:
            values = values + bias[columns.long()]
        y_RN = x_RD.new_zeros(len(x_RD), self.out_features).index_put((rows, columns.long()), values)
        return y_RN, columns.numel()

    def _shared(self, x_RD: Tensor, weight: Tensor, bias: Tensor | None, codes: Tensor) -> tuple[Tensor, int]:
        """One set of neurons for the batch."""
        with _stages.timed("group"):
            none = torch.zeros(0, dtype=torch.int64)
            ids = self.lsh.index.active(codes, none, self.lsh.limit, 0, self.lsh.steps).ids
        with _stages.timed("gemm"):
            some = nn.functional.linear(x_RD, weight[ids], None if bias is None else bias[ids])
            y_RN = x_RD.new_zeros(len(x_RD), self.out_features).index_copy(1, ids, some)
        return y_RN, len(x_RD) * len(ids)

    def _count(self, x_RD: Tensor, outputs: int) -> None:
        """Book the multiply-adds of one pass that computed so many outputs; hashing counts, of rows and of neurons."""
        passes = 1
        if torch.is_grad_enabled():
            passes += int(self.weight.requires_grad) + int(x_RD.requires_grad)
        state, rows = self.lsh, len(x_RD)
        hashed = rows + (self.out_features / state.config.hashing.refresh_every if self.training else 0)
        done = outputs * self.in_features * passes + int(hashed * state.index.built().family.macs)
        dense = rows * self.out_features * self.in_features * passes
        ratio = outputs / max(rows * self.out_features, 1)
        state.counters.add(steps=1, macs=done, dense_macs=dense, remaining_ratio=ratio)
        state.row = {"stage": 0, "remaining_ratio": ratio, "error": 0.0}
