"""Loss and accuracy on a split, leaving no trace on the model or on torch's generator."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, amp: str = "none") -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy 0..1) of `model` over all samples of `batches`.

    Args:
        model: maps images to logits; the mode of every module in it is the same afterwards.
        batches: pairs of float images and int64 labels.
        amp: `none` or `bf16`.
    """
    modes = [(module, module.training) for module in model.modules()]
    generator = torch.get_rng_state()
    loss_sum, correct, seen = 0.0, 0, 0
    try:
        model.eval()
        with torch.no_grad():
            for images, labels in batches:
                with autocast(amp):
                    logits = model(images)
                loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum").item()
                correct += int((logits.argmax(dim=1) == labels).sum())
                seen += len(labels)
    finally:
        for module, training in modes:
            module.training = training
        torch.set_rng_state(generator)
    return loss_sum / seen, correct / seen


def autocast(amp: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 for `bf16`; nothing for `none`."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if amp == "bf16" else nullcontext()
