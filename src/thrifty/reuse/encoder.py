"""Two ways to give similar pieces the same code: random hyperplanes, and a codebook that follows the activations.

`SignEncoder` is the papers' sign-LSH. `CodebookEncoder` assigns every piece to the nearest of 2^H entries, which makes
about 0.6 of the error at the same number of clusters. Its entries follow the centroids, which the layer computes
anyway, so each training step is a step of mini-batch k-means at the cost of the assignment alone.

Codes depend only on the piece and on what was learned up to the last `learn`, which a controller calls once a training
step: a forward pass that is repeated within a step (gradient checkpointing) finds the same clusters.
"""

from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from thrifty.core.errors import CheckpointError
from thrifty.core.seeds import derive_seed
from thrifty.ops.cluster_mean import cluster_mean
from thrifty.ops.clusters import Clusters, cut, piece_count
from thrifty.ops.group_codes import group_codes
from thrifty.ops.nearest_centroid import nearest_centroid
from thrifty.ops.reuse_conv2d import sign_codes

FIRST_ROUNDS = 4  # of k-means on the first batch
FIRST_PIECES = 32  # pieces per entry that they look at
LEARNING_RATE = 0.5  # how far an entry moves towards the mean of its members in one training step


class SignEncoder:
    """Zero-mean hyperplanes, the same for every piece position, as in the papers; made from the seed."""

    def __init__(self, length: int, bits: int, seed: int, *keys: int | str) -> None:
        # An array of numpy: the first call may be under a transform of torch.func, which would forbid torch to draw
        # and take hold of every tensor made meanwhile.
        source = numpy.random.default_rng(derive_seed(seed, *keys, length, bits))
        self.planes_LH = source.standard_normal((length, bits))

    def planes(self, x_PC: Tensor) -> Tensor:
        """Hyperplanes (G, L, H) for the rows of `x_PC`."""
        dtype = numpy.float64 if x_PC.dtype == torch.float64 else numpy.float32
        groups = piece_count(x_PC.shape[1], self.planes_LH.shape[0])
        return torch.from_numpy(self.planes_LH.astype(dtype)).to(x_PC.device).expand(groups, -1, -1)

    def codes(self, x_PC: Tensor, mean_C: Tensor) -> Tensor:
        """Rows (P, C) -> codes (G, P)."""
        return sign_codes(x_PC, self.planes(x_PC), mean_C)

    @property
    def macs_per_value(self) -> int:
        """Multiply-adds for each value of the input."""
        return int(self.planes_LH.shape[1])


class _Seen(NamedTuple):
    """What `learn` will learn from: the last forward pass."""

    entries_K: Tensor
    counts_K: Tensor
    centroids_KL: Tensor
    spares_GEL: Tensor


class CodebookEncoder:
    """Nearest of 2^H entries per piece position. Falls back to hyperplanes under a transform before the first batch."""

    def __init__(self, length: int, bits: int, seed: int, *keys: int | str) -> None:
        self.length, self.bits = length, bits
        self.fallback = SignEncoder(length, bits, seed, *keys)
        self.seed = derive_seed(seed, *keys, "codebook", length, bits)
        self.codebook_GEL: Tensor | None = None
        self.learned = 0
        self._seen: _Seen | None = None

    def codes(self, x_PC: Tensor, mean_C: Tensor) -> Tensor:
        """Rows (P, C) -> codes (G, P); the first call makes the codebook from them."""
        if self.codebook_GEL is None or len(self.codebook_GEL) != piece_count(x_PC.shape[1], self.length):
            if transformed():
                return self.fallback.codes(x_PC, mean_C)
            self.codebook_GEL = self._first_codebook(x_PC.detach())
        return nearest_centroid(x_PC, self.codebook_GEL.to(x_PC.device, x_PC.dtype))

    @property
    def macs_per_value(self) -> int:
        """Multiply-adds for each value of the input."""
        return self.fallback.macs_per_value if self.codebook_GEL is None else self.codebook_GEL.shape[1]

    def see(self, x_PC: Tensor, codes_GP: Tensor, clusters: Clusters, centroids_KL: Tensor) -> None:
        """Remember what these clusters teach, for `learn`."""
        if self.codebook_GEL is None or transformed():
            return
        entries = max(self.codebook_GEL.shape[1], min(1 << self.bits, x_PC.shape[0]))
        entries_K = _entries_of(codes_GP, clusters, entries)
        spares = self._draw(x_PC.detach(), entries)
        self._seen = _Seen(entries_K, clusters.counts, centroids_KL.detach(), spares)

    def learn(self) -> None:
        """Move the entries towards what was last seen; an entry that nothing chose becomes a piece drawn at random.

        A codebook that began with fewer entries, on a small batch, grows by such pieces.
        """
        if self._seen is None or self.codebook_GEL is None:
            return
        entries_K, counts_K, centroids_KL, spares_GEL = self._seen
        more_GEL = spares_GEL[:, self.codebook_GEL.shape[1] :].to(self.codebook_GEL)
        flat_EL = torch.cat([self.codebook_GEL, more_GEL], dim=1).view(-1, self.length)
        weights_K = counts_K.to(centroids_KL.dtype)
        members_E = weights_K.new_zeros(len(flat_EL)).index_add_(0, entries_K, weights_K)
        sums_EL = centroids_KL.new_zeros(flat_EL.shape).index_add_(0, entries_K, centroids_KL * weights_K.unsqueeze(1))
        means_EL = sums_EL / members_E.clamp(min=1).unsqueeze(1)
        chosen_E1 = (members_E > 0).unsqueeze(1)
        moved_EL = torch.where(
            chosen_E1, flat_EL.lerp(means_EL.to(flat_EL), LEARNING_RATE), spares_GEL.reshape(flat_EL.shape).to(flat_EL)
        )
        self.codebook_GEL = moved_EL.view(spares_GEL.shape)
        self.learned += 1
        self._seen = None

    def state_dict(self) -> dict[str, Any]:
        """What later codes depend on."""
        return {"codebook": self.codebook_GEL, "learned": self.learned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is of another kind or size."""
        codebook, learned = state.get("codebook"), state.get("learned")
        fits = codebook is None or (
            isinstance(codebook, Tensor)
            and codebook.dtype == torch.float32
            and codebook.shape[2:] == (self.length,)
            and 1 <= codebook.shape[1] <= 1 << self.bits
            and bool(codebook.isfinite().all())
        )
        if not fits or not isinstance(learned, int) or learned < 0:
            raise CheckpointError("a codebook in the checkpoint does not fit the layer's pieces; start the run anew")
        self.codebook_GEL, self.learned, self._seen = codebook, learned, None

    def _first_codebook(self, x_PC: Tensor) -> Tensor:
        """A few rounds of k-means over a part of the rows, from pieces drawn at random."""
        entries = max(1, min(1 << self.bits, x_PC.shape[0]))
        step = max(1, x_PC.shape[0] // (entries * FIRST_PIECES))
        some_PC = x_PC[::step].float().contiguous()
        codebook_GEL = self._draw(some_PC, entries)
        for _ in range(FIRST_ROUNDS):
            codes_GP = nearest_centroid(some_PC, codebook_GEL)
            clusters = Clusters(*group_codes(codes_GP, len(some_PC)))
            means_KL = cluster_mean(some_PC, *clusters, self.length, some_PC.shape[1])
            codebook_GEL.view(-1, self.length)[_entries_of(codes_GP, clusters, entries)] = means_KL
        return codebook_GEL

    def _draw(self, x_PC: Tensor, entries: int) -> Tensor:
        """`entries` pieces per position, (G, E, L), from rows drawn by the seed and the steps learned so far."""
        source = numpy.random.default_rng((self.seed, self.learned))
        rows = torch.from_numpy(source.integers(x_PC.shape[0], size=entries)).to(x_PC.device)
        return cut(x_PC[rows], self.length).float().contiguous()


def _entries_of(codes_GP: Tensor, clusters: Clusters, entries: int) -> Tensor:
    """(K,): each cluster's entry in the codebook, counted through all groups."""
    groups = torch.arange(len(codes_GP), device=codes_GP.device)
    group_K = torch.repeat_interleave(groups, clusters.offsets.diff())
    firsts_K = clusters.order.view(-1)[clusters.starts[:-1]].long()
    return group_K * entries + codes_GP[group_K, firsts_K]


def transformed() -> bool:
    """Whether a transform of torch.func is active: tensors are then wrapped, and nothing may be kept of them."""
    return torch._C._are_functorch_transforms_active()
