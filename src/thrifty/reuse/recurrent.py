"""ReuseLSTM and ReuseGRU: stock recurrent layers whose products of the input, and of the state, are shared in training.

The input's products of all steps are made at once, before the recurrence. With `sequences="exact"` rows of the first
layer's input that are equal share them, without error: embedded tokens recur, so of a batch of text few rows are
distinct. Deeper layers see states, which never recur, and run in torch's own kernels. With `"clusters"` every layer's
input is approximated, and with `recurrent` every step's state too.

The stock forward runs, bit for bit and with its own errors, in eval mode, in the dense stage, under autocast, on inputs
that do not fit, and in `exact` where too few rows are equal to pay (`_worth`). Dropout between layers is torch's.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import _VF, Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from thrifty.core.counters import LayerCounters
from thrifty.core.surgery import adopt, restore
from thrifty.ops import _stages
from thrifty.ops._backend import exporting
from thrifty.ops.gru_scan import gru_scan
from thrifty.ops.lstm_scan import lstm_scan
from thrifty.ops.recurrence import Cell, gru_cell, lstm_cell, recur
from thrifty.reuse.config import Reuse
from thrifty.reuse.parts import PartsState
from thrifty.reuse.products import Shared, clustered_linear, count_dense, equal_linear, find_equal

State = tuple[Tensor, ...]


class _ReuseRecurrent(nn.RNNBase):
    """What both layers share; the stock class follows it in the bases."""

    method: ClassVar[str] = "reuse"
    parts_of_state: ClassVar[int]  # LSTM: h and c; GRU: h
    gates: ClassVar[int]
    cell: ClassVar[Cell]
    # Measured on 2 cores of an AVX-512 EPYC, as parts of the stock layer's time for one product (input or state): what
    # the recurrence takes here, and what a product of the input does.
    scan_cost: ClassVar[float]
    product_cost: ClassVar[float]
    reuse: PartsState
    sequences: str  # as in the config; with anything else nothing is shared, to see what the recurrence alone takes
    recurrent: bool

    @property
    def counters(self) -> LayerCounters:
        """What was done since the last reset, forward and backward."""
        return self.reuse.settle_counters()

    def trace_row(self) -> dict[str, Any] | None:
        """The last step's stage, remaining ratio and error, once."""
        return self.reuse.take_row()

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the stock layer's forward: the same types, shapes and dtypes in and out."""
        if not self.training or exporting() or not self._usable(input, hx):
            return super().forward(input, hx)
        answer = self._shared(input, hx) if self.reuse.stage is not None or self.sequences == "exact" else None
        if answer is None:
            self._count_stock(input.data if isinstance(input, PackedSequence) else input)
            return super().forward(input, hx)
        return answer

    def _usable(self, input: Any, hx: Any) -> bool:
        """Whether the stock layer takes these, in one dtype and without autocast."""
        x = input.data if isinstance(input, PackedSequence) else input
        weight = self.weight_ih_l0
        if not isinstance(x, Tensor) or x.dtype != weight.dtype or x.numel() == 0 or x.shape[-1] != self.input_size:
            return False
        if torch.is_autocast_enabled(x.device.type) or x.device != weight.device or x.layout is not torch.strided:
            return False
        if not isinstance(input, PackedSequence) and x.dim() not in (2, 3):
            return False
        if hx is None:
            return True
        parts = (hx,) if self.parts_of_state == 1 else hx
        if not isinstance(parts, tuple | list) or len(parts) != self.parts_of_state:
            return False
        shape = self._state_shape(input)
        return all(isinstance(part, Tensor) and part.shape == shape and part.dtype == x.dtype for part in parts)

    def _state_shape(self, input: Any) -> tuple[int, ...]:
        layers = self.num_layers * (2 if self.bidirectional else 1)
        if isinstance(input, PackedSequence):
            return layers, int(input.batch_sizes[0]), self.hidden_size
        if input.dim() == 2:
            return layers, self.hidden_size
        return layers, input.shape[0 if self.batch_first else 1], self.hidden_size

    @torch.compiler.disable
    def _shared(self, input: Any, hx: Any) -> Any:
        """The stock layer's answer with shared products, or None where that does not pay."""
        with _stages.report_to(self.reuse.seconds):
            if isinstance(input, PackedSequence):
                data, sizes = input.data, input.batch_sizes.tolist()
            else:
                batched = input.dim() == 3
                steps = input if batched else input.unsqueeze(1)
                steps = steps.transpose(0, 1) if self.batch_first and batched else steps
                data, sizes = steps.reshape(-1, self.input_size), [steps.shape[1]] * steps.shape[0]
            given = input.data if isinstance(input, PackedSequence) else input
            shared = find_equal(self.reuse, "input", data, given, self._worth) if self.sequences == "exact" else None
            if self.sequences == "exact" and shared is None:
                return None
            self.reuse.counters.add(steps=1)
            state = self._first_state(input, hx, data, sizes[0])
            data, state = self._layers(data, sizes, state, shared)
        if isinstance(input, PackedSequence):
            packed = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, self._given_back(state, input.unsorted_indices)
        y = data.view(len(sizes), sizes[0], -1)
        if not batched:
            return y.squeeze(1), self._given_back(tuple(part.squeeze(1) for part in state), None)
        return y.transpose(0, 1) if self.batch_first else y, self._given_back(state, None)

    def _worth(self, to_rows: bool) -> float:
        """The part of distinct rows up to which sharing the first layer's input products beats the stock layer.

        to_rows: whether the input's gradient is wanted row by row, which is a third of the products and not shared.
        """
        limit = (self.input_size + (1 - self.scan_cost) * self.hidden_size) / (self.product_cost * self.input_size)
        return 1.5 * limit - 0.5 if to_rows else limit

    def _first_state(self, input: Any, hx: Any, data: Tensor, size: int) -> State:
        """(layers * directions, B, H), in the order of the rows."""
        if hx is None:
            layers = self.num_layers * (2 if self.bidirectional else 1)
            return tuple(data.new_zeros(layers, size, self.hidden_size) for _ in range(self.parts_of_state))
        parts = (hx,) if self.parts_of_state == 1 else tuple(hx)
        if isinstance(input, PackedSequence):
            order = input.sorted_indices
            return parts if order is None else tuple(part.index_select(1, order) for part in parts)
        return tuple(part.unsqueeze(1) for part in parts) if input.dim() == 2 else parts

    def _given_back(self, state: State, order: Tensor | None) -> Any:
        parts = state if order is None else tuple(part.index_select(1, order) for part in state)
        return parts[0] if self.parts_of_state == 1 else parts

    def _layers(self, data: Tensor, sizes: list[int], state: State, shared: Shared | None) -> tuple[Tensor, State]:
        directions = 2 if self.bidirectional else 1
        ended: list[State] = []
        for layer in range(self.num_layers):
            if shared is not None and layer == 1:
                data, rest = self._stock_rest(data, sizes, tuple(part[directions:] for part in state))
                return data, tuple(torch.cat(both) for both in zip(_stacked(ended), rest, strict=True))
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                out, *end = self._direction(
                    data, sizes, tuple(part[number] for part in state), layer, direction, shared
                )
                outputs.append(out)
                ended.append(tuple(end))
            data = outputs[0] if directions == 1 else torch.cat(outputs, 1)
            if layer + 1 < self.num_layers:
                data = F.dropout(data, self.dropout, training=True)
        return data, _stacked(ended)

    def _direction(
        self,
        data: Tensor,
        sizes: list[int],
        state: State,
        layer: int,
        direction: int,
        shared: Shared | None,
    ) -> State:
        """One layer in one direction: outputs (N, H), and the last state."""
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        of_input, of_state = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        bias, state_bias = (getattr(self, f"bias_{kind}{suffix}") if self.bias else None for kind in ("ih", "hh"))
        if bias is not None and self.parts_of_state == 2:  # both biases of an LSTM go to the same sum
            bias, state_bias = bias + state_bias, None
        if shared is not None:
            gates_NX = equal_linear(self.reuse, data, of_input, bias, shared)
        elif self.sequences == "clusters":
            part = self.reuse.part(f"input{suffix}")
            gates_NX = clustered_linear(self.reuse, part, data, of_input, bias, len(data))
        else:
            count_dense(self.reuse, data, of_input)
            gates_NX = F.linear(data, of_input, bias)
        if self.recurrent:
            part = self.reuse.part(f"state{suffix}")

            def product(h: Tensor) -> Tensor:
                return clustered_linear(self.reuse, part, h, of_state, state_bias, len(h))

            return recur(gates_NX, state, sizes, bool(direction), product, type(self).cell)
        count_dense(self.reuse, gates_NX, of_state)
        return self._scan(gates_NX, of_state, state_bias, state, sizes, bool(direction))

    @abstractmethod
    def _scan(
        self, gates_NX: Tensor, weight: Tensor, bias: Tensor | None, state: State, sizes: list[int], reverse: bool
    ) -> State:
        """The recurrence on the input's gates with dense products of the state."""

    def _stock_rest(self, data: Tensor, sizes: list[int], state: State) -> tuple[Tensor, State]:
        """The layers behind the first in torch's own kernels."""
        self._update_flat_weights()
        directions = 2 if self.bidirectional else 1
        weights: Any = self._flat_weights[directions * (4 if self.bias else 2) :]
        for name, weight in self.named_parameters():
            if "weight" in name and "_l0" not in name:
                count_dense(self.reuse, data, weight)
        kernel: Any = _VF.lstm if self.parts_of_state == 2 else _VF.gru
        first: Any = state if self.parts_of_state == 2 else state[0]
        more = (self.bias, self.num_layers - 1, self.dropout, True, self.bidirectional)
        if sizes[0] == sizes[-1]:
            out, *last = kernel(data.view(len(sizes), sizes[0], -1), first, weights, *more, False)
            return out.flatten(0, 1), tuple(last)
        out, *last = kernel(data, torch.tensor(sizes), first, weights, *more)
        return out, tuple(last)

    def _count_stock(self, x: Tensor) -> None:
        rows = x.numel() // x.shape[-1]
        weights = sum(weight.numel() for name, weight in self.named_parameters() if "weight" in name)
        passes = 2 + x.requires_grad if torch.is_grad_enabled() else 1
        self.reuse.counters.add(steps=1, macs=rows * weights * passes, dense_macs=rows * weights * passes)


class ReuseLSTM(_ReuseRecurrent, nn.LSTM):
    """`nn.LSTM` under reuse; made by `thrifty.apply_`. Shapes and dtypes as `nn.LSTM`."""

    parts_of_state, gates, cell = 2, 4, staticmethod(lstm_cell)
    scan_cost, product_cost = 1.35, 1.1

    def to_stock(self) -> nn.LSTM:
        """The stock layer with the same parameters."""
        return _to_stock(self, nn.LSTM)

    def _scan(
        self, gates_NX: Tensor, weight: Tensor, bias: Tensor | None, state: State, sizes: list[int], reverse: bool
    ) -> State:
        return lstm_scan(gates_NX, weight, state[0], state[1], sizes, reverse)


class ReuseGRU(_ReuseRecurrent, nn.GRU):
    """`nn.GRU` under reuse; made by `thrifty.apply_`. Shapes and dtypes as `nn.GRU`."""

    parts_of_state, gates, cell = 1, 3, staticmethod(gru_cell)
    scan_cost, product_cost = 1.15, 1.0

    def to_stock(self) -> nn.GRU:
        """The stock layer with the same parameters."""
        return _to_stock(self, nn.GRU)

    def _scan(
        self, gates_NX: Tensor, weight: Tensor, bias: Tensor | None, state: State, sizes: list[int], reverse: bool
    ) -> State:
        return gru_scan(gates_NX, weight, bias, state[0], sizes, reverse)


def _stacked(ended: list[State]) -> State:
    """The last states of layers and directions -> one tensor for each part."""
    return tuple(torch.stack(part) for part in zip(*ended, strict=True))


def change_lstm(lstm: nn.LSTM, name: str, config: Reuse) -> nn.Module | str:
    """The replacement, or why the LSTM stays dense."""
    if lstm.proj_size:
        return f"proj_size={lstm.proj_size}: the projected state is short, and the recurrence here does not project"
    return _change(lstm, ReuseLSTM, name, config)


def change_gru(gru: nn.GRU, name: str, config: Reuse) -> nn.Module | str:
    """The replacement, or why the GRU stays dense."""
    return _change(gru, ReuseGRU, name, config)


def _change(rnn: nn.RNNBase, cls: type[Any], name: str, config: Reuse) -> nn.Module | str:
    if config.sequences == "off":
        return "a recurrent layer pays where rows recur, as tokens do; Reuse(sequences='exact') changes it"
    state = PartsState(name, config.seed, config.stages, config.encoder)
    changed: nn.Module = adopt(rnn, cls, reuse=state, sequences=config.sequences, recurrent=config.recurrent)
    changed._flat_weights = list(rnn._flat_weights)  # type: ignore[assignment]  # the stock layer keeps its own
    return changed


def _to_stock(layer: _ReuseRecurrent, cls: type[Any]) -> Any:
    stock = restore(layer, cls, drop=("reuse", "sequences", "recurrent"))
    stock._flat_weights = list(layer._flat_weights)
    return stock
