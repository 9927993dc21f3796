"""A model in 16 bits that is called as before: float32 images in, float32 logits out."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model that computes in `dtype` and answers in float32; float32 leaves it as it is."""
    copied = copy.deepcopy(model)
    if dtype == torch.float32:
        return copied
    copied.to(dtype)
    copied.register_forward_pre_hook(partial(_cast, dtype=dtype))
    copied.register_forward_hook(_widen)
    return copied


def _cast(model: nn.Module, inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def _widen(model: nn.Module, inputs: Any, output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else output
