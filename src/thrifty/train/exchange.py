"""How the workers of an arm exchange gradients: the wrapped model, its buckets, and what travels on the wire."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from thrifty.compose import Applied
from thrifty.compose.merged import merge_gradients
from thrifty.core.errors import ModelError
from thrifty.distributed import MergedGradients, MergePlan, Wire, WireHook, attach, bucket_report, realised
from thrifty.distributed.precision import MixedPrecision
from thrifty.distributed.workers import Workers
from thrifty.train.arms import Arm
from thrifty.train.config import DDP, TrainConfig

Sample = Callable[[], tuple[Tensor, Tensor]]
"""This worker's images and labels of a step, for measuring."""


class Exchange:
    """Made on all workers together, before the first step.

    Args:
        network: of the arm, with its methods applied.
        config: of the run.
        arm: of the run.
        workers: at least two.
        precision: that steps compute in.
        applied: the account of the changed layers; None where none are.
        sample: called where `config` asks for a merge plan; None leaves DistributedDataParallel's own buckets.
        plan_file: where what was measured is kept, and taken from while it holds.

    Attributes:
        model: what a training step calls.
        plan: the buckets that gradients were planned to travel in; None without a merge plan.

    Raises:
        ModelError: workers with different models.
        UsageError, DistributedError: as `thrifty.distributed.measure`.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainConfig,
        arm: Arm,
        workers: Workers,
        *,
        precision: MixedPrecision,
        applied: Applied | None,
        sample: Sample | None,
        plan_file: Path | None,
    ) -> None:
        self._network = network
        self._buckets: dict[str, Any] | None = None
        self.plan: MergePlan | None = None
        try:
            if config.plan == DDP or sample is None:
                self.model = DistributedDataParallel(network, process_group=workers.group)
            else:
                images, labels = sample()

                def loss() -> Tensor:
                    with precision.autocast():
                        return cross_entropy(network(images), labels, label_smoothing=config.label_smoothing)

                settings = MergedGradients(
                    wire=config.wire, timeout_s=config.worker_timeout, saved=str(plan_file) if plan_file else None
                )
                self.model, self.plan = merge_gradients(
                    network, loss, settings, applied=applied, group=workers.group, batch=_words(images, arm)
                )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"the workers do not have the same model ({reason}): give all of them the same") from error
        self._hook: WireHook | None = attach(self.model, Wire(config.wire)) if config.wire != "fp32" else None
        self._seen = 0
        self.model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._seen += 1

    def buckets(self) -> dict[str, Any] | None:
        """The buckets in which gradients travel, first sent first; None until DistributedDataParallel has learned.

        Keys: `rule`, `bytes` of each, and of a plan `planned_bytes`, the `differences` from it, and the `predicted_s`
        from the start of the backward pass to the end of the last transfer; None without one.
        """
        if self._buckets is None and self._seen > 2:
            sizes = {name: p.numel() * p.element_size() for name, p in self._network.named_parameters()}
            plan = self.plan
            self._buckets = {
                "rule": "ddp-default" if plan is None else plan.rule,
                "bytes": [sum(sizes[name] for name in bucket) for bucket in realised(self.model)],
                "planned_bytes": None if plan is None else list(plan.bucket_bytes),
                "differences": None if plan is None else list(bucket_report(self.model, plan).differences),
                "predicted_s": None if plan is None else plan.predicted_s,
            }
        return self._buckets

    def state_dict(self) -> dict[str, Any] | None:
        """What the wire keeps of this worker's gradients; None where it keeps nothing."""
        return self._hook.state_dict() if self._hook else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over such a state. Raises CheckpointError when it is of another model."""
        if self._hook is not None:
            self._hook.load_state_dict(state)

    def close(self) -> None:
        """End the threads that send; the model must not be trained any more."""
        if self._hook is not None:
            self._hook.close()


def _words(images: Tensor, arm: Arm) -> str:
    """What a measured plan holds for, as `thrifty plan --distributed` says it: its file fits an arm without methods."""
    said = f"{len(images)} x {','.join(map(str, images.shape[1:]))}"
    return said if not arm.methods and arm.amp == "none" else f"{said}, {arm.name} {arm.amp}"
