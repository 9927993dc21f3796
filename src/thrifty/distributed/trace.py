"""A gradient profile from the model alone: no data, no time, no memory.

Forward and backward pass run on the meta device, where operations have shapes and no values. Each operation is given
the time of a roofline: its multiply-adds at the machine's peak or its bytes at the memory's speed, whichever is longer.
Order of gradients and first use of parameters are those that autograd really has. Absolute seconds are as good as the
roofline: scale them to a measured step with `GradientProfile.taking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from thrifty.core.errors import ModelError
from thrifty.distributed.profile import GradientProfile


@dataclass(frozen=True)
class Roofline:
    """What a machine does at best, and the share of it that training reaches.

    Attributes:
        name: for tables.
        flops: floating-point operations a second; a multiply-add is two.
        bytes_per_s: of its memory.
        share: of both, that whole steps reach.
    """

    name: str
    flops: float
    bytes_per_s: float
    share: float = 1.0


P40 = Roofline("Tesla P40", flops=11.8e12, bytes_per_s=346e9, share=0.6)
"""Peaks from the vendor's data sheet. The share puts ResNet-50 at about 162 images/s with 32 images, fp32: the 142 that
arXiv 1807.11205 comes down to on each of 2048 P40, over the 87.9 % that it scales with."""


def trace_profile(model: nn.Module, inputs: Sequence[Tensor], machine: Roofline = P40) -> GradientProfile:
    """The profile of `model` on a machine that is described by its roofline.

    Args:
        model: with all parameters on the meta device: build it under `with torch.device("meta")`.
        inputs: what its forward pass takes, on the meta device too; the batch size is theirs.
        machine: on which times are put.

    Raises:
        ModelError: a model with real parameters, without trained ones, or with one that gets no gradient.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters or any(parameter.device.type != "meta" for parameter in model.parameters()):
        raise ModelError(
            "a profile is traced from a model whose parameters are on the meta device, some of them trained"
        )
    meter = _Meter(machine, parameters)
    ready: dict[str, float] = {}
    handles = [
        parameter.register_post_accumulate_grad_hook(_marker(ready, name, meter))
        for name, parameter in parameters.items()
    ]
    try:
        with meter:
            result = model(*inputs).sum()
            forward_s = meter.seconds
            result.backward()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters.values():
            parameter.grad = None
    missing = [name for name in parameters if name not in ready]
    if missing:
        raise ModelError(f"{missing[0]} gets no gradient: freeze what the model does not use")
    names = tuple(ready)
    return GradientProfile(
        names=names,
        sizes_bytes=tuple(parameters[name].numel() * parameters[name].element_size() for name in names),
        ready_s=tuple(ready[name] - forward_s for name in names),
        backward_s=meter.seconds - forward_s,
        forward_s=forward_s,
        needed_s=tuple(min(meter.first_use.get(name, 0.0), forward_s) for name in names),
    )


def _marker(ready: dict[str, float], name: str, meter: _Meter) -> Callable[[Tensor], None]:
    def mark(_: Tensor) -> None:
        ready.pop(name, None)  # a gradient that grows once more is ready later
        ready[name] = meter.seconds

    return mark


class _Meter(TorchDispatchMode):
    """Adds up the roofline's seconds of every operation, and notes when a parameter is first read."""

    def __init__(self, machine: Roofline, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._flop_s = 1 / (machine.flops * machine.share)
        self._byte_s = 1 / (machine.bytes_per_s * machine.share)
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self.first_use: dict[str, float] = {}
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in read:
            if (name := self._names.get(id(tensor))) is not None:
                self.first_use.setdefault(name, self.seconds)
        result = func(*args, **kwargs)
        if func.is_view:
            return result
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        count = flop_registry.get(func._overloadpacket)
        flops = 0 if count is None else count(*args, **kwargs, out_val=result)
        self.seconds += max(flops * self._flop_s, moved * self._byte_s)
        return result


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An input without values."""
    return torch.empty(shape, dtype=dtype, device="meta")
