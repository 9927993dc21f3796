"""Optimizers by name, in torch's fused form where the parameters allow it."""

from torch import nn, optim

OPTIMIZERS = ("sgd", "adamw")


def make(
    name: str, model: nn.Module, *, learning_rate: float, momentum: float, nesterov: bool, weight_decay: float
) -> optim.Optimizer:
    """Build the optimizer `name` (one of `OPTIMIZERS`) over the trainable parameters of `model`.

    Only parameters of two or more dimensions decay: biases and the scales of normalisation layers have no business
    being pulled to zero, and leaving them alone is worth accuracy in large-batch training (Jia et al., 1807.11205).
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # The fused kernels take floating-point parameters only, and one step in them costs one call a group.
    fused = all(parameter.is_floating_point() for parameter in trainable)
    if name == "sgd":
        return optim.SGD(
            groups, lr=learning_rate, momentum=momentum, nesterov=nesterov and momentum > 0, fused=fused or None
        )
    return optim.AdamW(groups, lr=learning_rate, fused=fused or None)
