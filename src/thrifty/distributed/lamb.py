"""LAMB (You et al., ICLR 2020, arXiv 1904.00962): Adam's step, scaled to the length of each layer's weights.

For weights w and gradient g of one tensor at step k, with betas b1, b2, weight decay d and learning rate r:

    m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
    u = (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps) + d w
    w = w - r min(|w| / |u|, clip) u

Deviation: the paper bounds |w| by some phi, here the ratio itself is bounded. Groups with `adapt=False` take ratio 1,
which is AdamW.
Cost: two norms and eight passes over the weights a step; two buffers of their size.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.distributed.layerwise import LayerwiseOptimizer, trust_ratios


class LAMB(LayerwiseOptimizer):
    """Adam with decoupled decay and a trust ratio for each tensor; fp32 inside for 16-bit parameters too.

    Args:
        params: parameters, or groups, which may have settings of their own, `adapt=False` among them.
        lr: learning rate.
        betas: decays of the two moments, each 0 <= b < 1.
        weight_decay: d.
        clip: upper bound of the ratio; None for none.
        eps: of Adam.
        adapt: whether to use the ratio at all.

    Raises:
        UsageError: a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip: float | None = None,
        eps: float = 1e-6,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "clip": clip, "eps": eps, "adapt": adapt}
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], params: list[nn.Parameter], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        for parameter, weight in zip(params, weights, strict=True):
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros(()), exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight)
                )
        states = [self.state[parameter] for parameter in params]
        firsts, seconds = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_add_([s["step"] for s in states], 1)
        steps = [int(s["step"]) for s in states]
        first_decay, second_decay = group["betas"]
        torch._foreach_lerp_(firsts, grads, 1 - first_decay)
        torch._foreach_mul_(seconds, second_decay)
        torch._foreach_addcmul_(seconds, grads, grads, 1 - second_decay)
        scales = torch._foreach_div(seconds, [1 - second_decay**k for k in steps])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        updates = torch._foreach_div(firsts, [1 - first_decay**k for k in steps])
        torch._foreach_div_(updates, scales)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        rates: list[Any] = [-group["lr"]] * len(params)
        if group["adapt"]:
            sizes = torch.stack(torch._foreach_norm(updates))
            ratios = trust_ratios(weights, sizes, factor=1.0, clip=group["clip"], eps=0.0)
            rates = [-group["lr"] * ratio for ratio in ratios]
        torch._foreach_mul_(updates, rates)
        torch._foreach_add_(weights, updates)
