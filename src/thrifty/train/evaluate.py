"""Loss and accuracy on a split, leaving no trace on the model or on torch's generator."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.distributed.precision import Precision
from thrifty.distributed.workers import ALONE, Workers


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision | None = None,
    workers: Workers = ALONE,
) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy 0..1) of `model` over all samples of `batches`.

    Args:
        model: maps images to logits; the mode of every module in it is the same afterwards.
        batches: pairs of float images and int64 labels; this worker's share of them.
        precision: fp32 where None.
        workers: who else tests a share; all get the result of the whole.
    """
    modes = [(module, module.training) for module in model.modules()]
    generator = torch.get_rng_state()
    loss_sum, correct, seen = 0.0, 0, 0
    precision = precision or Precision()
    try:
        model.eval()
        with torch.no_grad():
            for images, labels in batches:
                if not len(labels):  # fewer images than workers are left
                    continue
                with precision.autocast():
                    logits = model(images)
                loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum").item()
                correct += int((logits.argmax(dim=1) == labels).sum())
                seen += len(labels)
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(generator)
    loss_sum, all_correct, all_seen = workers.sum([loss_sum, correct, seen])
    return loss_sum / all_seen, all_correct / all_seen
