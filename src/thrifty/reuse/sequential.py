"""ReuseSequential: an nn.Sequential that runs a convolution under reuse and the ReLU and max pool behind it as one.

The layers stay what and where they are; only the loop over them changes. A layer with hooks, in another mode or under a
transform is called by itself, as in nn.Sequential.
"""

from typing import Any

import torch
from torch import nn

from thrifty.reuse.layers import ReuseConv2d


class ReuseSequential(nn.Sequential):
    """`nn.Sequential` with its layers' values and gradients; made by `thrifty.apply_`, in place."""

    def forward(self, input: Any) -> Any:
        """As `nn.Sequential`."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        layers = list(self)
        at = 0
        while at < len(layers):
            taken, output = _block(layers, at, input)
            if taken == 0:
                taken, output = 1, layers[at](input)
            input = output
            at += taken
        return input


def _block(layers: list[nn.Module], at: int, input: Any) -> tuple[int, Any]:
    """How many layers from `at` on ran as one, and their output; 0 where they cannot."""
    conv = layers[at]
    if not isinstance(conv, ReuseConv2d) or at + 1 == len(layers):
        return 0, None
    relu = layers[at + 1]
    if type(relu) is not nn.ReLU or _hooked(conv) or _hooked(relu):
        return 0, None
    pool = layers[at + 2] if at + 2 < len(layers) else None
    if type(pool) is not nn.MaxPool2d or _hooked(pool) or pool.ceil_mode or pool.return_indices or _spread(pool):
        pool = None
    output = conv.with_relu(input, pool)
    return (0, None) if output is None else (2 if pool is None else 3, output)


def _hooked(layer: nn.Module) -> bool:
    everywhere = torch.nn.modules.module
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
    )


def _spread(pool: nn.MaxPool2d) -> bool:
    return pool.dilation not in (1, (1, 1))
