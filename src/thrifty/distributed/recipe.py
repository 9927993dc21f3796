"""The large-batch recipe of Jia et al. (arXiv 1807.11205), piece by piece, so that each can be left out.

- LARS, or LAMB, in fp32 (`lars`, `lamb`), with a warm-up and a polynomial decay of the rate (`polynomial`).
- No weight decay on biases and normalisation parameters, and no layer-wise rate for them (`parameter_groups`).
- AlexNet-BN has one more BatchNorm after the last pool: `thrifty.models` builds it so.
- The last normalisation of each residual block starts at scale 0, so that each block starts as the identity
  (`zero_last_gamma_`); `thrifty.models` does so in ResNet-50.
"""

from typing import Any

from torch import nn

from thrifty.distributed.normalisation import split_parameters

_LAST_NORMS = {"Bottleneck": "bn3", "BasicBlock": "bn2"}
"""Residual blocks, by the names that torchvision gave them, and the normalisation that ends each."""


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr: float,
    exempt_lr: float | None = None,
    spare_decay: bool = True,
    spare_rate: bool = True,
) -> list[dict[str, Any]]:
    """Groups for LARS or LAMB: weights, and apart from them biases and normalisation parameters.

    Args:
        model: trainable parameters count.
        weight_decay: of the weights; the others have none.
        lr: of the weights, which the layer-wise ratio scales.
        exempt_lr: of the others, which nothing scales; `lr` where None.
        spare_decay: whether the others have no weight decay.
        spare_rate: whether they have no layer-wise rate.
    """
    weights, exempt = split_parameters(model)
    groups = [
        {"params": weights, "weight_decay": weight_decay, "lr": lr, "adapt": True},
        {
            "params": exempt,
            "weight_decay": 0.0 if spare_decay else weight_decay,
            "lr": lr if exempt_lr is None or not spare_rate else exempt_lr,
            "adapt": not spare_rate,
        },
    ]
    return [group for group in groups if group["params"]]


def polynomial(progress: float, warm_up: float = 0.1, power: float = 2.0) -> float:
    """Part of the peak rate at `progress` 0..1: straight up over the first `warm_up`, then down as (1 - p)^`power`."""
    if progress < warm_up:
        return progress / warm_up
    return float((1.0 - (progress - warm_up) / (1.0 - warm_up)) ** power)


def zero_last_gamma_(model: nn.Module) -> list[str]:
    """Set the scale of the last normalisation of every residual block to 0, in place.

    Returns:
        The names of the parameters that were set; none where the model has no `Bottleneck` or `BasicBlock`.
    """
    found = []
    for name, module in model.named_modules():
        last = _LAST_NORMS.get(type(module).__name__)
        norm = getattr(module, last, None) if last else None
        if isinstance(norm, nn.Module) and isinstance(norm.weight, nn.Parameter):
            nn.init.zeros_(norm.weight)
            found.append(f"{name}.{last}.weight" if name else f"{last}.weight")
    return found
