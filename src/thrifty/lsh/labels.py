"""Labels as they come in, checked before anything is computed from them."""

import torch
from torch import Tensor

from thrifty.core.errors import UsageError

IGNORED = -100  # as in nn.CrossEntropyLoss


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise UsageError unless all labels are whole numbers in [0, classes)."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"labels must be whole numbers, got {labels.dtype}")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        wrong = labels[(labels < 0) | (labels >= classes)].flatten()[0]
        raise UsageError(f"a label is {int(wrong)}: expected 0 to {classes - 1} ({classes} classes)")


def one_label_a_row(x: Tensor, labels: Tensor, features: int, classes: int) -> tuple[Tensor, Tensor]:
    """Queries (..., D) and labels (...) as (R, D) and (R,), without the rows whose label is `IGNORED`.

    Raises:
        UsageError: for shapes that do not fit, labels out of range, and no label at all.
    """
    if x.shape[-1:] != (features,) or x.shape[:-1] != labels.shape:
        raise UsageError(
            f"queries {tuple(x.shape)} and labels {tuple(labels.shape)} do not fit: "
            f"expected (..., {features}) and (...)"
        )
    x_RD, labels_R = x.reshape(-1, features), labels.reshape(-1)
    counts = labels_R != IGNORED
    if not bool(counts.all()):
        x_RD, labels_R = x_RD[counts], labels_R[counts]
    if not labels_R.numel():
        raise UsageError("the batch has no label: leave such batches out")
    check_labels(labels_R, classes)
    return x_RD, labels_R.long()
