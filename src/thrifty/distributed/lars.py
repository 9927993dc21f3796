"""LARS (You, Gitman & Ginsburg, arXiv 1708.03888): each layer's step is a fixed part of the length of its weights.

For weights w and gradient g of one tensor, with trust coefficient t, weight decay b, momentum m and learning rate r:

    ratio = min(t |w| / (|g| + b |w|), clip)
    v     = m v + r ratio (g + b w)
    w     = w - v

The rate is inside the momentum, as published: a rate that changes acts on new gradients only.
Deviations: `clip`, an upper bound of the ratio (as LARC has); a tensor of zeros has the ratio t, where the equation
gives 0 and would never let it start; groups with `adapt=False` take ratio 1, plain SGD: biases and normalisation
parameters (Jia et al., arXiv 1807.11205).
Cost: two norms and three passes over the weights a step; one buffer of their size.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.distributed.layerwise import LayerwiseOptimizer, trust_ratios


class LARS(LayerwiseOptimizer):
    """SGD with momentum and a trust ratio for each tensor; arithmetic and state are fp32 for 16-bit parameters too.

    Args:
        params: parameters, or groups, which may have settings of their own, `adapt=False` among them.
        lr: global learning rate; since ratios are near `trust`, rates of 1 to 30 are ordinary.
        momentum: 0 <= m < 1.
        weight_decay: b.
        trust: t.
        clip: upper bound of the ratio; None for none.
        eps: added to the denominator.
        adapt: whether to use the ratio at all.

    Raises:
        UsageError: a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        clip: float | None = None,
        eps: float = 1e-9,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "clip": clip, "eps": eps,
            "adapt": adapt,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], params: list[nn.Parameter], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        decay = group["weight_decay"]
        steps = torch._foreach_add(grads, weights, alpha=decay)
        if group["adapt"]:
            sizes = torch.stack(torch._foreach_norm(grads))
            if decay:
                sizes = sizes + decay * torch.stack(torch._foreach_norm(weights))
            ratios = trust_ratios(weights, sizes, factor=group["trust"], clip=group["clip"], eps=group["eps"])
            torch._foreach_mul_(steps, [group["lr"] * ratio for ratio in ratios])
        else:
            torch._foreach_mul_(steps, group["lr"])
        if group["momentum"]:
            for parameter, step in zip(params, steps, strict=True):
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(step)
            buffers = tuple(self.state[parameter]["momentum_buffer"] for parameter in params)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps)
            steps = buffers
        torch._foreach_sub_(weights, steps)
