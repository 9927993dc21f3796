"""What a layer under reuse carries besides its stock parameters: its setting, its encoders, its counters."""

import warnings
from typing import Any

import torch
from torch import Tensor

from thrifty.core.counters import LayerCounters
from thrifty.core.errors import CheckpointError
from thrifty.ops import _stages
from thrifty.ops.clusters import Clusters
from thrifty.ops.group_codes import group_codes
from thrifty.ops.reuse_conv2d import Moments, centroids_of, moments_of, quantisation_error
from thrifty.reuse.config import Stage
from thrifty.reuse.encoder import CodebookEncoder, SignEncoder

LIMITS = (0.25, 0.35)
"""Shares of nonzeros, forward and backward, up to which skipping the zeros pays on most machines and layers."""


class ReuseState:
    """Setting, encoders and counters of one layer.

    Attributes:
        stage_index: position of `stage` in the config's stages; their number means dense.
        stage: the setting in force, or None for dense.
        patches: whether pieces are cut from im2col rows instead of pixels.
        counters: what was done since the last reset.
        skip_zeros: whether exact products may leave out zeros, and run with the ReLU and pool behind them.
        gradients: `exact` or `clusters`, where a ReLU follows; see `Reuse.gradients`.
        limits: see `ops.skip_conv2d`; set by the controller.
        probing: whether exact ways are being measured; no stage is in force then.
        resting: steps for which exact products that no ReLU follows are left to the stock layer; set by the controller.
        clusters_pay: False once clusters were measured to be slower than exact products here.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        stages: tuple[Stage, ...],
        patches: bool = False,
        encoder: str = "codebook",
        skip_zeros: bool = False,
        clusters_pay: bool = True,
        gradients: str = "exact",
    ) -> None:
        self.name, self.seed, self.stages, self.patches, self.kind = name, seed, stages, patches, encoder
        self.counters = LayerCounters()
        self.seconds = _stages.StageSeconds()
        self._encoders: dict[tuple[int, int], CodebookEncoder | SignEncoder] = {}
        self._row: dict[str, Any] | None = None
        self._warned = False
        self.stage_index = 0
        self.skip_zeros, self.clusters_pay, self.gradients = skip_zeros, clusters_pay, gradients
        self.limits = list(LIMITS)
        self.probing = False
        self.resting = 0

    @property
    def stage(self) -> Stage | None:
        """The setting in force, or None for exact products."""
        if self.probing or not self.clusters_pay or self.stage_index >= len(self.stages):
            return None
        return self.stages[self.stage_index]

    def settle_counters(self) -> LayerCounters:
        """The counters, with the seconds that the ops reported since."""
        # One by one, as other threads may be adding.
        macs, self.seconds.macs = self.seconds.macs, 0
        self.counters.add(macs=macs, stages_s={stage: self.seconds.pop(stage) for stage in list(self.seconds)})
        return self.counters

    def take_row(self) -> dict[str, Any] | None:
        """The last observation, once."""
        row, self._row = self._row, None
        return row

    def encoder(self, length: int, bits: int) -> CodebookEncoder | SignEncoder:
        """The encoder for pieces of `length` channels; made when first asked for, and kept."""
        key = (length, bits)
        if key not in self._encoders:
            kind = CodebookEncoder if self.kind == "codebook" else SignEncoder
            self._encoders[key] = kind(length, bits, self.seed, "reuse", self.name)
        return self._encoders[key]

    def learn(self) -> None:
        """Let codebooks follow the activations; once per training step."""
        for encoder in self._encoders.values():
            if isinstance(encoder, CodebookEncoder):
                encoder.learn()

    def state_dict(self) -> dict[str, Any]:
        """What later codes depend on, by encoder."""
        return {
            f"{length},{bits}": encoder.state_dict()
            for (length, bits), encoder in self._encoders.items()
            if isinstance(encoder, CodebookEncoder)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state; raises CheckpointError when it is of another kind."""
        self._encoders.clear()
        for key, of_encoder in state.items():
            length, bits = (int(part) for part in key.split(","))
            encoder = self.encoder(length, bits)
            if isinstance(encoder, SignEncoder):
                raise CheckpointError("the checkpoint holds codebooks, this run hashes by signs; start the run anew")
            encoder.load_state_dict(of_encoder)

    def quantise(self, x_PC: Tensor, stage: Stage, image_rows: int) -> tuple[Tensor, Clusters] | None:
        """Rows (P, C) -> centroids and clusters, counted; None where a value is not finite (warned of once)."""
        length = min(stage.length, x_PC.shape[1])
        encoder = self.encoder(length, stage.bits)
        moments = moments_of(x_PC)
        if not torch.isfinite(torch.tensor(moments.square)):
            self._warn_not_finite()
            return None
        scope = min(stage.scope * image_rows, x_PC.shape[0]) or x_PC.shape[0]
        codes = encoder.codes(x_PC, moments.mean)
        clusters = Clusters(*group_codes(codes, scope))
        centroids = centroids_of(x_PC, clusters, length)
        if isinstance(encoder, CodebookEncoder):
            encoder.see(x_PC, codes, clusters, centroids)
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
