"""Initial weights with which deep networks without normalisation start to learn (He et al., ICCV 2015).

A ReLU keeps half of the second moment, so weights of variance 2 / fan_in keep the size of activations from layer
to layer. The last layer gets 0.01 / fan_in: its outputs start near zero and the first loss near log(classes), also
after max pools, which raise the second moment.
"""

from typing import Literal

from torch import nn

_LAST_GAIN = 0.1
CALM = 1 / 3
"""Variance times fan_in with which torch draws a Linear by default; for heads thousands of values wide."""


def kaiming_(
    model: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_in", linear: float | None = None
) -> nn.Module:
    """Draw every Conv2d and Linear of `model` in place from torch's global generator, and return `model`.

    Biases start at zero, normalisation layers at scale 1 and shift 0. `mode` is `fan_in` (keeps activations) or
    `fan_out` (keeps gradients) for convolutions; `linear` replaces the variance times fan_in of every Linear:
    in a wide head one step moves the logits by the squared length of the hidden values, so that He's 2 overshoots at
    learning rates which the convolutions need.
    """
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    last = linears[-1] if linears else None
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            if linear is not None:
                nn.init.normal_(layer.weight, std=(linear / layer.in_features) ** 0.5)
            elif layer is last:
                nn.init.normal_(layer.weight, std=_LAST_GAIN / layer.in_features**0.5)
            else:
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model
