"""Optimizers by name, in torch's fused form where the parameters allow it."""

from torch import nn, optim

from thrifty.distributed.lamb import LAMB
from thrifty.distributed.lars import LARS
from thrifty.distributed.normalisation import split_parameters
from thrifty.distributed.recipe import parameter_groups

OPTIMIZERS = ("sgd", "adamw", "lars", "lamb")
EXEMPTIONS = ("both", "decay", "rate", "none")
LARS_EXEMPT = 0.02
"""Rate of biases and normalisation parameters as a part of LARS's: theirs is not scaled by a ratio of about that."""


def make(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    exempt: str = "both",
) -> optim.Optimizer:
    """Build the optimizer `name` (one of `OPTIMIZERS`) over the trainable parameters of `model`.

    Only weights decay: biases and the scales of normalisation layers have no business being pulled to zero, and leaving
    them alone is worth accuracy in large-batch training (Jia et al., 1807.11205). LARS and LAMB leave their rate alone.
    `exempt` takes some of this back, for comparison.
    """
    spared = {"decay": exempt in ("both", "decay"), "rate": exempt in ("both", "rate")}
    if name in ("lars", "lamb"):
        groups = parameter_groups(
            model,
            weight_decay=weight_decay,
            lr=learning_rate,
            exempt_lr=(LARS_EXEMPT if name == "lars" else 1.0) * learning_rate,
            spare_decay=spared["decay"],
            spare_rate=spared["rate"],
        )
        if name == "lars":
            return LARS(groups, lr=learning_rate, momentum=momentum)
        return LAMB(groups, lr=learning_rate)
    weights, others = split_parameters(model)
    plain = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0 if spared["decay"] else weight_decay},
    ]
    plain = [group for group in plain if group["params"]]
    # The fused kernels take floating-point parameters only, and one step in them costs one call a group.
    fused = all(parameter.is_floating_point() for parameter in (*weights, *others))
    if name == "sgd":
        return optim.SGD(
            plain, lr=learning_rate, momentum=momentum, nesterov=nesterov and momentum > 0, fused=fused or None
        )
    return optim.AdamW(plain, lr=learning_rate, fused=fused or None)
