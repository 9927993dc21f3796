"""Swap modules of a model in place, and back, without touching their parameters.

A replacement is an instance of a subclass of the stock layer, such as `ReuseConv2d(nn.Conv2d)`, that was never
constructed anew: `adopt` takes over the attributes of the stock layer. So the replacement holds the very same
Parameter objects (live optimizers go on), the same hooks (their handles still remove them), buffers and training
flag, and its state_dict keys are the stock ones by construction. `restore` is the way back.

Nothing here changes a stock module before `swap`, so a caller may plan, look, and give up at no cost.
"""

import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

_OWN_CONTAINERS = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
"""Copied, so that a replacement may register buffers of its own. The other containers are hooks and stay shared:
a hook's handle refers to the container, and must remove the hook from the module that runs."""


@dataclass(frozen=True)
class LayerReport:
    """What was decided about one layer.

    Attributes:
        name: the layer's first qualified name in the model.
        kind: the name of its stock class, for example "Conv2d".
        action: the method that changed it, or "dense".
        reason: why it was left dense; empty for a changed layer.
        aliases: further names of the same, shared layer.
    """

    name: str
    kind: str
    action: str
    reason: str = ""
    aliases: tuple[str, ...] = ()


def adopt(stock: nn.Module, cls: type[M], **attributes: Any) -> M:
    """Return a `cls` that takes over everything that `stock` is, plus `attributes`; `stock` is left as it is.

    Args:
        stock: the layer to replace.
        cls: a subclass of the type of `stock`; its `__init__` is not called.
        attributes: what the replacement has of its own; set one by one as by assignment. Buffers are registered on
            the result by the caller, as non-persistent ones, so that state_dict keys stay the stock ones.

    Raises:
        TypeError: when `cls` is not a proper subclass of the type of `stock`.
    """
    if cls is type(stock) or not issubclass(cls, type(stock)):
        raise TypeError(f"{cls.__name__} is not a subclass of {type(stock).__name__}")
    replacement = _clone(stock, cls)
    for name, value in attributes.items():
        setattr(replacement, name, value)
    return replacement


def restore(module: nn.Module, stock_cls: type[M], *, drop: Collection[str] = ()) -> M:
    """Return a `stock_cls` that takes over everything that `module` is, without what is named in `drop`.

    Args:
        module: a layer that `adopt` made; it is left as it is.
        stock_cls: the class that it was adopted from.
        drop: the names of attributes and buffers that the replacement had of its own; absent names are fine.

    Raises:
        TypeError: when `module` is not an instance of a subclass of `stock_cls`.
    """
    if not isinstance(module, stock_cls):
        raise TypeError(f"{type(module).__name__} is not a subclass of {stock_cls.__name__}")
    stock = _clone(module, stock_cls)
    for name in drop:
        stock.__dict__.pop(name, None)
        for container in ("_parameters", "_buffers", "_modules"):
            stock.__dict__[container].pop(name, None)
        stock.__dict__["_non_persistent_buffers_set"].discard(name)
    return stock


def _clone(module: nn.Module, cls: type[M]) -> M:
    clone = cls.__new__(cls)
    clone.__dict__.update(module.__dict__)
    for container in _OWN_CONTAINERS:
        clone.__dict__[container] = module.__dict__[container].copy()
    return clone


def named_layers(model: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """Yield every module of `model` once, with all its qualified names, in the order of `named_modules`."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module, of_module in names.items():
        yield tuple(of_module), module


def swap(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put each replacement wherever `model` holds the module that it replaces, in place.

    Args:
        model: the model; it must not itself be a key of `replacements`, as only its parents could exchange it.
        replacements: module to its replacement, made by `adopt` or `restore`.
    """
    parents = [*model.modules(), *replacements.values()]
    for parent in parents:
        children = parent._modules
        for name, child in children.items():
            if child is not None and child in replacements:
                children[name] = replacements[child]
    for module, replacement in replacements.items():
        _rebind_hooks(module, replacement)


def retype(model: nn.Module, types: Mapping[type[nn.Module], type[nn.Module]], held: Collection[nn.Module]) -> None:
    """Turn each container of `model` that directly holds one of `held` into the type that `types` has for its own.

    In place, as the model itself may be such a container; the types differ in their methods only.
    """
    for module in model.modules():
        other = types.get(type(module))
        if other is not None and any(child in held for child in module.children()):
            module.__class__ = other


def _rebind_hooks(module: nn.Module, replacement: nn.Module) -> None:
    """Point the load_state_dict pre-hooks, which hold their module weakly, to the module that lives on."""
    hooks: Iterable[Any] = replacement._load_state_dict_pre_hooks.values()
    for hook in hooks:
        if getattr(hook, "with_module", False) and hook.module() is module:
            hook.module = weakref.ref(replacement)
