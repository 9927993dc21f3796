"""ReuseMultiheadAttention: stock attention with shared scores, and shared products of its projections, in training.

`attention="queries"` or `"keys"` makes the scores on clusters of each head and sequence (`clustered_attention`): 2^bits
rows or columns of the score matrix at most, instead of one a position. `sequences` shares the products of the
projections, by equal rows or by clusters.

Scores are shared where no weights are asked for (`need_weights=False`, as `nn.TransformerEncoderLayer` does) and no
mask tells one query from another (`attn_mask`, `is_causal`). Dropout is then drawn once for a cluster. The stock
forward runs, bit for bit and with its own errors, in eval mode, in the dense stage, under autocast, and on whatever
else does not fit: inputs without a batch, nested ones, weights asked for, `add_bias_kv`, `add_zero_attn`.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.core.counters import LayerCounters
from thrifty.core.surgery import adopt, restore
from thrifty.ops import _stages
from thrifty.ops._backend import exporting
from thrifty.ops.clustered_attention import clustered_keys, clustered_queries
from thrifty.reuse.config import Reuse, Stage
from thrifty.reuse.parts import PartsState
from thrifty.reuse.products import clustered_linear, count_dense, equal_linear, find_equal

EXACT_LIMIT = 0.8
"""The part of distinct rows up to which one product for each of them beats one for every row."""


class ReuseMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` under reuse; made by `thrifty.apply_`. Shapes and dtypes as `nn.MultiheadAttention`."""

    method: ClassVar[str] = "reuse"
    reuse: PartsState
    sequences: str
    attention: str
    attention_bits: int

    @property
    def counters(self) -> LayerCounters:
        """What was done since the last reset, forward and backward."""
        return self.reuse.settle_counters()

    def trace_row(self) -> dict[str, Any] | None:
        """The last step's stage, remaining ratio and error, once."""
        return self.reuse.take_row()

    def to_stock(self) -> nn.MultiheadAttention:
        """The stock layer with the same parameters."""
        return restore(self, nn.MultiheadAttention, drop=("reuse", "sequences", "attention", "attention_bits"))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock layer's forward: the same shapes and dtypes in and out."""
        masks = (key_padding_mask, attn_mask)
        unsaid = is_causal and attn_mask is None  # the stock layer's error
        if self.reuse.stage is None or need_weights or unsaid or not self._usable(query, key, value, masks):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        return self._shared(query, key, value, *masks), None

    def _usable(self, query: Tensor, key: Tensor, value: Tensor, masks: tuple[Tensor | None, Tensor | None]) -> bool:
        """Whether the stock layer takes these in training, in a batch, in one dtype and without autocast."""
        weight = self.out_proj.weight
        inputs = (query, key, value)
        if (
            not self.training
            or exporting()
            or self.bias_k is not None
            or self.add_zero_attn
            or torch.is_autocast_enabled(query.device.type)
        ):
            return False
        if any(x.dim() != 3 or x.is_nested or x.numel() == 0 or x.dtype != weight.dtype for x in inputs):
            return False
        batch, steps = (0, 1) if self.batch_first else (1, 0)
        sequences, positions, keys = query.shape[batch], query.shape[steps], key.shape[steps]
        fit = (query.shape[2], key.shape[2], value.shape[2]) == (self.embed_dim, self.kdim, self.vdim)
        if not fit or key.shape[:2] != value.shape[:2] or key.shape[batch] != sequences:
            return False
        of_keys, of_queries = masks
        dtypes = (torch.bool, weight.dtype)
        if of_keys is not None and (of_keys.shape != (sequences, keys) or of_keys.dtype not in dtypes):
            return False
        shapes = ((positions, keys), (sequences * self.num_heads, positions, keys))
        return of_queries is None or (of_queries.shape in shapes and of_queries.dtype in dtypes)

    @torch.compiler.disable
    def _shared(
        self, query: Tensor, key: Tensor, value: Tensor, of_keys: Tensor | None, of_queries: Tensor | None
    ) -> Tensor:
        with _stages.report_to(self.reuse.seconds):
            self.reuse.counters.add(steps=1)
            q_PC, k_PC, v_PC = self._projected(query, key, value)
            sequences = query.shape[0 if self.batch_first else 1]
            masks = [None if mask is None else _additive(mask, q_PC.dtype) for mask in (of_keys, of_queries)]
            answer_PC = self._attend(q_PC, k_PC, v_PC, sequences, *masks)
            answer_PC = self._product("out", answer_PC, answer_PC, self.out_proj.weight, self.out_proj.bias, sequences)
        answer = answer_PC.view(sequences, -1, self.embed_dim)
        return answer if self.batch_first else answer.transpose(0, 1)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (P, E) of queries, keys and values; one product for those that come from the same input."""
        sequences = query.shape[0 if self.batch_first else 1]
        bias = self.in_proj_bias
        if query is key and key is value and self._qkv_same_embed_dim:
            q_k_v = self._product("in", self._rows(query), query, self.in_proj_weight, bias, sequences)
            q_PC, k_PC, v_PC = (part.contiguous() for part in q_k_v.chunk(3, 1))
            return q_PC, k_PC, v_PC
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q_PC, k_PC, v_PC = (
            self._product(name, self._rows(x), x, w, b, sequences)
            for name, x, w, b in zip(("query", "key", "value"), (query, key, value), weights, biases, strict=True)
        )
        return q_PC, k_PC, v_PC

    def _rows(self, x: Tensor) -> Tensor:
        """(B * T, C), sequence after sequence."""
        return (x if self.batch_first else x.transpose(0, 1)).reshape(-1, x.shape[2])

    def _product(
        self, part: str, x_PC: Tensor, given: Tensor, weight: Tensor, bias: Tensor | None, sequences: int
    ) -> Tensor:
        if self.sequences == "clusters":
            state = self.reuse.part(part)
            return clustered_linear(self.reuse, state, x_PC, weight, bias, x_PC.shape[0] // sequences)
        if self.sequences == "exact" and part != "out":  # answers differ even where queries are equal: by a mask
            shared = find_equal(self.reuse, part, x_PC, given, lambda to_rows: EXACT_LIMIT)
            if shared is not None:
                return equal_linear(self.reuse, x_PC, weight, bias, shared)
        count_dense(self.reuse, x_PC, weight)
        return F.linear(x_PC, weight, bias)

    def _attend(
        self,
        q_PC: Tensor,
        k_PC: Tensor,
        v_PC: Tensor,
        sequences: int,
        of_keys: Tensor | None,
        of_queries: Tensor | None,
    ) -> Tensor:
        """Rows (P, E) of queries, keys and values -> rows of answers."""
        heads, depth = self.num_heads, self.head_dim
        q, k, v = (x.view(sequences, -1, heads, depth).transpose(1, 2) for x in (q_PC, k_PC, v_PC))
        by_key = None if of_keys is None else of_keys[:, None, None]
        if of_queries is None and self.attention != "off":
            rows = q_PC if self.attention == "queries" else k_PC
            positions = rows.shape[0] // sequences
            part = self.reuse.part(self.attention)
            found = part.quantise(rows, Stage(depth, self.attention_bits, scope=1), positions)
            if found is not None:
                clusters = found[1]
                other = k if self.attention == "queries" else q
                self._count_scores(rows, other, clusters.remaining_ratio)
                if self.attention == "queries":
                    return clustered_queries(q_PC, k, v, clusters, by_key, self.dropout)
                flat = None if of_keys is None else of_keys.reshape(-1)
                answer = clustered_keys(q, k_PC, v_PC, clusters, flat, self.dropout)
                return answer.transpose(1, 2).reshape(q_PC.shape)
        mask = by_key
        if of_queries is not None:
            per_query = of_queries.view(-1 if of_queries.dim() == 3 else 1, *_heads_of(of_queries, heads))
            mask = per_query if by_key is None else per_query + by_key
        self._count_scores(q_PC, k, 1.0)
        answer = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout)
        return answer.transpose(1, 2).reshape(q_PC.shape)

    def _count_scores(self, rows_PC: Tensor, other: Tensor, ratio: float) -> None:
        """Book scores and weighted sums: two products forward, four backward."""
        passes = 6 if torch.is_grad_enabled() else 2
        dense = rows_PC.shape[0] * other.shape[2] * self.embed_dim * passes
        self.reuse.counters.add(macs=int(dense * ratio), dense_macs=dense)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add: -inf where it was True."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf) if mask.dtype == torch.bool else mask


def _heads_of(mask: Tensor, heads: int) -> tuple[int, ...]:
    return (heads, *mask.shape[1:]) if mask.dim() == 3 else (1, *mask.shape)


def change_attention(attention: nn.MultiheadAttention, name: str, config: Reuse) -> nn.Module | str:
    """The replacement, or why the attention stays dense."""
    if config.sequences == "off" and config.attention == "off":
        return "attention pays on long sequences; Reuse(attention='queries') shares its scores, sequences= its products"
    state = PartsState(name, config.seed, config.stages, config.encoder)
    return adopt(
        attention,
        ReuseMultiheadAttention,
        reuse=state,
        sequences=config.sequences,
        attention=config.attention,
        attention_bits=config.attention_bits,
    )


def change_out_projection(linear: nn.Linear, name: str, config: Reuse) -> str:
    """Why an attention's output projection is no layer of its own."""
    return "its attention layer multiplies by it itself; Reuse(sequences='clusters') shares these products"
