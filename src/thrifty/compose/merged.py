"""Merged gradients around a model whose layers other methods have changed."""

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from thrifty.compose.applied import Applied
from thrifty.distributed import MergedGradients, MergePlan, hand_over, measure
from thrifty.distributed.measure_gradients import Loss


def merge_gradients(
    model: nn.Module, loss: Loss, config: MergedGradients, *, applied: Applied | None, group: Any, batch: str = ""
) -> tuple[DistributedDataParallel, MergePlan]:
    """Measure on one batch, plan, and wrap `model`; what the methods saw meanwhile is forgotten.

    Args:
        model: the same on all processes of the group.
        loss: forward pass and loss of one batch; see `thrifty.distributed.data_parallel`.
        config: the settings.
        applied: the account of the changed layers; None where none are.
        group: the processes; all of the world where None.
        batch: what a saved plan holds for besides the model.

    Raises:
        As `thrifty.distributed.data_parallel`.
    """
    before = applied.state_dict() if applied is not None else None
    measured = measure(model, loss, config, batch=batch, group=group)
    if applied is not None and before is not None:
        applied.load_state_dict(before)
    return hand_over(model, measured.plan, group=group, timeout_s=config.timeout_s), measured.plan
