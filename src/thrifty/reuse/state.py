"""What a layer under reuse carries besides its stock parameters: its setting, its hash planes, its counters."""

import warnings
from typing import Any

import numpy
import torch
from torch import Tensor

from thrifty.core.counters import LayerCounters
from thrifty.core.seeds import derive_seed
from thrifty.ops import _stages
from thrifty.ops.clusters import Clusters, piece_count
from thrifty.ops.reuse_conv2d import Moments, centroids_of, find_clusters, moments_of, quantisation_error
from thrifty.reuse.config import Stage


class ReuseState:
    """Setting, hash planes and counters of one layer.

    Attributes:
        stage_index: position of `stage` in the config's stages; their number means dense.
        stage: the setting in force, or None for dense.
        patches: whether pieces are cut from im2col rows instead of pixels.
        counters: what was done since the last reset.
    """

    def __init__(self, name: str, seed: int, stages: tuple[Stage, ...], patches: bool = False) -> None:
        self.name, self.seed, self.stages, self.patches = name, seed, stages, patches
        self.counters = LayerCounters()
        self.seconds = _stages.StageSeconds()
        # Arrays of numpy: the first call may be under a transform of torch.func, which would forbid torch to draw and
        # take hold of every tensor made meanwhile.
        self._planes: dict[tuple[int, int, torch.dtype], numpy.ndarray] = {}
        self._row: dict[str, Any] | None = None
        self._warned = False
        self.stage_index = 0

    @property
    def stage(self) -> Stage | None:
        """The setting in force, or None for dense."""
        return self.stages[self.stage_index] if self.stage_index < len(self.stages) else None

    def settle_counters(self) -> LayerCounters:
        """The counters, with the seconds that the ops reported since."""
        # One by one, as other threads may be adding.
        self.counters.add(stages_s={stage: self.seconds.pop(stage) for stage in list(self.seconds)})
        return self.counters

    def take_row(self) -> dict[str, Any] | None:
        """The last observation, once."""
        row, self._row = self._row, None
        return row

    def planes(self, x_PC: Tensor, stage: Stage) -> Tensor:
        """Zero-mean hyperplanes (G, L, H), the same for every piece position, as in the papers; made from the seed."""
        key = (stage.length, stage.bits, x_PC.dtype)
        if key not in self._planes:
            source = numpy.random.default_rng(derive_seed(self.seed, "reuse", self.name, stage.length, stage.bits))
            drawn = source.standard_normal((stage.length, stage.bits))
            self._planes[key] = drawn if x_PC.dtype == torch.float64 else drawn.astype(numpy.float32)
        planes_LH = torch.from_numpy(self._planes[key]).to(x_PC.device)
        groups = piece_count(x_PC.shape[1], stage.length)
        return planes_LH.expand(groups, -1, -1)

    def quantise(self, x_PC: Tensor, stage: Stage, image_rows: int) -> tuple[Tensor, Clusters] | None:
        """Rows (P, C) -> centroids and clusters, counted; None where a value is not finite (warned of once)."""
        length = min(stage.length, x_PC.shape[1])
        stage = Stage(length, stage.bits, stage.scope)
        moments = moments_of(x_PC)
        if not torch.isfinite(torch.tensor(moments.square)):
            self._warn_not_finite()
            return None
        scope = min(stage.scope * image_rows, x_PC.shape[0]) or x_PC.shape[0]
        clusters = find_clusters(x_PC, self.planes(x_PC, stage), moments.mean, scope)
        centroids = centroids_of(x_PC, clusters, length)
        self._observe(centroids, clusters, moments)
        return centroids, clusters

    def _observe(self, centroids: Tensor, clusters: Clusters, moments: Moments) -> None:
        ratio, error = clusters.remaining_ratio, quantisation_error(centroids, clusters, moments)
        self.counters.add(remaining_ratio=ratio, error=error)
        self._row = {"stage": self.stage_index, "remaining_ratio": ratio, "error": error}

    def _warn_not_finite(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"layer {self.name!r}: its input holds NaN or infinity, so this step runs dense; "
                "look for a diverging loss or bad data",
                RuntimeWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Planes come back from the seed, so they do not travel."""
        return {**self.__dict__, "_planes": {}}
