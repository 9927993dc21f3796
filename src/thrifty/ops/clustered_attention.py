"""Attention in which similar queries, or similar keys, of a head share one row, or one column, of the score matrix.

Source: Vyas, Katharopoulos & Fleuret, Fast Transformers with Clustered Attention (NeurIPS 2020): queries are clustered,
every cluster's mean attends to all keys, and all its members take the answer:

    out[i] = softmax(mean of the queries of i's cluster @ k^T / sqrt(D)) @ v

By keys, of a cluster with n members the mean key and the mean value stand for all of them:

    out[i] = softmax(q[i] @ k_c^T / sqrt(D) + log n_c) @ v_c

Both are dense attention after "replace every query (every key and value) by its cluster's mean", exactly, and plain
autograd gives that function's derivatives. Clusters belong to one head and one sequence. Cost: C / T of the dense
attention for C clusters among T positions, and C must be the same for all heads and sequences of a batch, so the
fullest decides. Deviation from the source: clusters come from the caller (a codebook carried over training steps
instead of k-means on LSH bits in every batch), and the variant that looks at the top keys once more is not built.
Legend: B sequences, G heads, T queries and S keys of a sequence, D channels of a head, K clusters of all heads and
sequences, N clusters of the fullest; P = B * T (or B * S) rows of G * D channels, in pieces of D (`Clusters`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.ops.cluster_mean import cluster_mean, cluster_spread
from thrifty.ops.clusters import Clusters


def clustered_queries(
    q_PC: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, clusters: Clusters, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of mean queries: (P, G * D) rows of queries -> (P, G * D) rows of answers.

    mask: added to the scores, broadcast to (B, 1, 1, S). dropout: probability of dropping a weight, one draw a cluster.
    """
    sequences, heads, _, depth = k_BGSD.shape
    means_KD = cluster_mean(q_PC, *clusters, depth, q_PC.shape[1])
    slots_K, width = _slots(clusters, sequences)
    means = _padded(means_KD, slots_K, sequences, heads, width)
    answers = F.scaled_dot_product_attention(means, k_BGSD, v_BGSD, attn_mask=mask, dropout_p=dropout)
    answers_KD = answers.reshape(-1, depth)[slots_K]
    counts_K1 = clusters.counts.to(answers_KD.dtype).unsqueeze(1)  # cluster_spread shares out, this hands on
    return cluster_spread(answers_KD * counts_K1, *clusters, depth, q_PC.shape[1])


def clustered_keys(
    q_BGTD: Tensor, k_PC: Tensor, v_PC: Tensor, clusters: Clusters, mask_P: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention to mean keys and values: (B, G, T, D) queries, (P, G * D) rows of keys and values -> (B, G, T, D).

    mask_P: added to the scores of each key, -inf for one that must not be seen; means are weighted by its exponential.
    """
    sequences, heads, _, depth = q_BGTD.shape
    channels = k_PC.shape[1]
    weights_K1 = clusters.counts.to(k_PC.dtype).unsqueeze(1)
    if mask_P is not None:
        weights_P1 = mask_P.to(k_PC.dtype).exp().unsqueeze(1)
        k_PC, v_PC = k_PC * weights_P1, v_PC * weights_P1
        share_K1 = cluster_mean(weights_P1.expand(-1, heads).contiguous(), *clusters, 1, heads)
        weights_K1 = weights_K1 * share_K1
    keys_KD = cluster_mean(k_PC, *clusters, depth, channels)
    values_KD = cluster_mean(v_PC, *clusters, depth, channels)
    if mask_P is not None:
        seen_K1 = share_K1.where(share_K1 > 0, 1.0)
        keys_KD, values_KD = keys_KD / seen_K1, values_KD / seen_K1
    slots_K, width = _slots(clusters, sequences)
    keys, values = (_padded(rows_KD, slots_K, sequences, heads, width) for rows_KD in (keys_KD, values_KD))
    none = weights_K1.new_full((sequences * heads * width, 1), -torch.inf)
    bias = none.index_copy(0, slots_K, weights_K1.log()).view(sequences, heads, 1, width)
    return F.scaled_dot_product_attention(q_BGTD, keys, values, attn_mask=bias, dropout_p=dropout)


def _slots(clusters: Clusters, sequences: int) -> tuple[Tensor, int]:
    """Each cluster's place in a table (B, G, N), flattened, and N. Clusters are numbered by head, then sequence."""
    heads, rows = clusters.ids.shape
    head_K = torch.repeat_interleave(torch.arange(heads, device=clusters.ids.device), clusters.offsets.diff())
    sequence_K = clusters.order.view(-1)[clusters.starts[:-1]].long() // (rows // sequences)
    _, count = torch.unique_consecutive(head_K * sequences + sequence_K, return_counts=True)
    width = int(count.max())
    before = count.cumsum(0) - count
    rank_K = torch.arange(head_K.numel(), device=count.device) - before.repeat_interleave(count)
    return (sequence_K * heads + head_K) * width + rank_K, width


def _padded(rows_KD: Tensor, slots_K: Tensor, sequences: int, heads: int, width: int) -> Tensor:
    """(K, D) -> (B, G, N, D), zeros where a head of a sequence has fewer clusters."""
    table = rows_KD.new_zeros(sequences * heads * width, rows_KD.shape[1])
    return table.index_copy(0, slots_K, rows_KD).view(sequences, heads, width, -1)
