"""Multiply-accumulates of one training step of a stock model, counted from the shapes that its layers meet.

Forward: a convolution does outputs x inputs a group x kernel size, a Linear outputs x inputs, for each place. Backward:
the same again for the weights' gradient if they are trained, and again for the inputs' gradient if it is wanted, which
it is not for a first layer. Convolutions, Linear, LSTM and attention count; what costs less than these does not.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _convolution(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    return output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def _linear(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    return output.numel() * layer.in_features


def _lstm(layer: Any, inputs: tuple[Tensor, ...], output: Any) -> int:
    steps = inputs[0].numel() // inputs[0].shape[-1]
    weights = (parameter for name, parameter in layer.named_parameters() if name.startswith("weight_"))
    return steps * sum(weight.numel() for weight in weights)


def _attention(layer: Any, inputs: tuple[Tensor, ...], output: Any) -> int:
    query, key = inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]
    width, places = layer.embed_dim, query.numel() // query.shape[-1]
    keys = key.shape[1 if layer.batch_first else 0] if key.dim() == 3 else key.shape[0]
    return places * width * 4 * width + places * keys * 2 * width


_COUNTS: tuple[tuple[type | tuple[type, ...], Callable[..., int]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    (nn.Linear, _linear),
    (nn.LSTM, _lstm),
    (nn.MultiheadAttention, _attention),
)


def count_macs(model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """Run `model` once on `images` and count.

    Args:
        model: a stock model; it is run in evaluation mode, so that its buffers stay as they are, and is left in the
            mode that it was in.
        images: one batch.

    Returns:
        The output, and the MACs of forward and backward for ONE sample of the batch.
    """
    total = 0

    def hook(count: Callable[..., int]) -> Callable[..., None]:
        def add(layer: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            nonlocal total
            inputs = (*positional, *keywords.values())
            trained = any(parameter.requires_grad for parameter in layer.parameters())
            wanted = inputs[0].requires_grad
            total += count(layer, inputs, output) * (1 + trained + wanted)

        return add

    handles = [
        module.register_forward_hook(hook(count), with_kwargs=True)
        for module in model.modules()
        for kinds, count in _COUNTS
        if isinstance(module, kinds)
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.enable_grad():
            output = model(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return output.detach() if isinstance(output, Tensor) else output, total // len(images)
