"""What LARS and LAMB share: a rate for each tensor from its norm and its update's, in fp32 whatever the parameters are.

Jia et al. (arXiv 1807.11205) found that LARS in fp16 loses much accuracy, as many values fall to 0 once its factor is
applied: so weights and gradients of 16 bits are widened, all of the arithmetic and all of the state are fp32, and the
result is rounded once. An update below half a step of the 16-bit format still vanishes in that rounding: that is what
fp32 masters are for (`distributed.precision`).
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thrifty.core.errors import UsageError

_HALF = (torch.float16, torch.bfloat16)


class LayerwiseOptimizer(Optimizer):
    """Base of the two; a group with `adapt=False` is updated without the layer-wise factor."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        for group in self.param_groups:
            check_group(type(self).__name__, group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; `closure`, if given, is called first and its value returned."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if any(p.grad.is_sparse for p in params):
                raise UsageError(f"{type(self).__name__} takes dense gradients: leave sparse=True out of the embedding")
            weights = [_widened(p.detach()) for p in params]
            self._update(group, params, weights, [_widened(p.grad) for p in params])
            narrow = [(p, wide) for p, wide in zip(params, weights, strict=True) if p.dtype in _HALF]
            if narrow:
                torch._foreach_copy_([p for p, _ in narrow], [wide for _, wide in narrow])
        return value

    def _update(
        self, group: dict[str, Any], params: list[nn.Parameter], weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        """Change `weights` in place; `grads` must stay as they are."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; it stays fp32, where torch would cast it to the format of the parameters."""
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(keys, params, strict=True):
            if parameter.dtype in _HALF:
                for name, value in state_dict["state"].get(key, {}).items():
                    if isinstance(value, Tensor):
                        self.state[parameter][name] = value.detach().clone().to(self.state[parameter][name].device)


def trust_ratios(
    weights: list[Tensor], updates: Tensor, *, factor: float, clip: float | None, eps: float
) -> tuple[Tensor, ...]:
    """Each tensor's `factor` * |w| / update, at most `clip`; `factor` where either of the two is zero.

    Args:
        weights: n tensors.
        updates: (n,), the size of the update that is scaled.
        factor: LARS's trust coefficient; 1 for LAMB.
        clip: upper bound of the ratio; None for none.
        eps: added to the updates.
    """
    norms = torch.stack(torch._foreach_norm(weights))
    known = (norms > 0) & (updates > 0)
    ratios = torch.where(known, factor * norms / (updates + eps), torch.full_like(norms, factor))
    return (ratios if clip is None else ratios.clamp(max=clip)).unbind()


def check_group(name: str, group: dict[str, Any]) -> None:
    """Raise UsageError for settings that cannot be meant."""
    for key in ("lr", "weight_decay", "eps"):
        if not group[key] >= 0:
            raise UsageError(f"{name}: {key} must be at least 0, got {group[key]}")
    if group["clip"] is not None and not group["clip"] > 0:
        raise UsageError(f"{name}: clip must be above 0, or None, got {group['clip']}")
    for beta in (group.get("momentum", 0.0), *group.get("betas", ())):
        if not 0 <= beta < 1:
            raise UsageError(f"{name}: momentum and betas must be at least 0 and below 1, got {beta}")


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _HALF else x
