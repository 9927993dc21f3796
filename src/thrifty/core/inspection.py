"""Which models and which layers cannot be changed, and why: looked at before anything is touched."""

from collections.abc import Collection

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from thrifty.core.errors import ModelError
from thrifty.core.registry import ChangedLayer

_WRAPPERS = {
    "DistributedDataParallel": "before DistributedDataParallel(model)",
    "DataParallel": "before DataParallel(model)",
    "FullyShardedDataParallel": "before FullyShardedDataParallel(model)",
    "FSDPModule": "before fully_shard(model)",
    "OptimizedModule": "before torch.compile(model)",
    "ScriptModule": "before torch.jit.script or torch.jit.trace",
}
"""Class of torch that has taken hold of the model's modules -> when to call us instead. Matched by name, so that
looking does not import the distributed packages and the compiler."""


def refuse_wrapped(model: nn.Module, verb: str) -> None:
    """Make sure that neither `model` nor a part of it is wrapped, compiled or scripted.

    Args:
        model: the model that is about to be changed.
        verb: the public call that the message speaks of, for example "thrifty.apply_".

    Raises:
        ModelError: naming the part, what holds it, and when to make the call instead.
    """
    for name, module in model.named_modules():
        part = f"part {name!r} of the model" if name else "the model"
        if module._compiled_call_impl is not None:
            raise ModelError(f"{part} is compiled: call {verb}(model) before model.compile()")
        for cls in type(module).__mro__:
            if cls.__name__ in _WRAPPERS and cls.__module__.partition(".")[0] == "torch":
                raise ModelError(f"{part} is a {cls.__name__}: call {verb}(model) {_WRAPPERS[cls.__name__]}")


def makes_sparse_gradients(model: nn.Module) -> str:
    """Return the name of the first layer of `model` whose gradients hold some rows alone; the empty string without."""
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True and any(p.requires_grad for p in module.parameters(recurse=False)):
            return name or type(module).__name__
    return ""


def is_candidate(module: nn.Module, handled: Collection[type[nn.Module]]) -> bool:
    """Tell whether a user would expect `module` to be changed by a method that handles the types `handled`."""
    if isinstance(module, tuple(handled)):
        return True
    return _is_quantized(module) and any(cls.__name__ in type(module).__name__ for cls in handled)


def reason_dense(module: nn.Module, handled: Collection[type[nn.Module]]) -> str:
    """Return why the candidate `module` has to stay as it is, or the empty string when a handler may decide."""
    kind = type(module).__name__
    if isinstance(module, ChangedLayer):
        return f"already changed by {module.method}"
    if _is_quantized(module):
        return "quantized layers stay as they are"
    if is_parametrized(module):
        return "parametrized (weight_norm, spectral_norm, ...): remove the parametrization to have it changed"
    if isinstance(module, LazyModuleMixin):
        return "lazy: run a batch through the model first"
    if type(module) not in handled:
        return f"{kind} is a subclass and may have a forward of its own"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    return _reason_of_parameters(module)


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.ao.", "torchao."))


def _reason_of_parameters(module: nn.Module) -> str:
    # A hook that makes a parameter anew before every forward leaves it as a plain tensor on the instance.
    made = [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
    if made:
        return f"its {made[0]} is made by a hook (weight_norm, pruning, ...): remove the hook to have it changed"
    for name, parameter in module.named_parameters(recurse=False):
        if isinstance(parameter, UninitializedParameter):
            return "not initialised: run a batch through the model first"
        if type(parameter) is not nn.Parameter or parameter.layout is not torch.strided:
            return f"its {name} is not an ordinary tensor ({type(parameter).__name__}, {parameter.layout})"
        if not parameter.dtype.is_floating_point:
            return f"its {name} has dtype {parameter.dtype}, not a real floating-point one"
    return ""
