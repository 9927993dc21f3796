"""Which layers follow a convolution so closely that it can do their work: BatchNorm, ReLU and max-pool.

Found in the graph that torch.fx traces; where a model cannot be traced every convolution stands alone.
"""

from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from thrifty.reuse.frozen_layer import can_pool


@dataclass(frozen=True)
class Chain:
    """Names of a convolution and of the layers behind it that read nothing else and are used once."""

    conv: str
    norm: str | None = None
    relu: str | None = None
    pool: str | None = None

    @property
    def rest(self) -> tuple[str, ...]:
        """The layers whose work a frozen convolution does, in order."""
        return tuple(name for name in (self.relu, self.pool) if name is not None)


def find_chains(model: nn.Module) -> list[Chain]:
    """The plain convolutions of a model in eval mode, in the order of use, or of definition where tracing fails.

    A convolution that is called more than once is left out: its calls see different inputs.
    """
    modules = dict(model.named_modules())
    convs = [name for name, module in modules.items() if type(module) is nn.Conv2d]
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # whatever a model's Python does to a tracer: it only costs the fusion
        return [Chain(name) for name in convs]
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    chains = []
    for name, nodes in calls.items():
        if len(nodes) == 1 and type(modules.get(name)) is nn.Conv2d:
            chains.append(_follow(nodes[0], modules, calls))
    return chains


def fold_norms(model: nn.Module, chains: list[Chain]) -> None:
    """Put every chain's BatchNorm into its convolution's weights, in place; the model must be in eval mode."""
    for chain in chains:
        if chain.norm is not None:
            conv, norm = model.get_submodule(chain.conv), model.get_submodule(chain.norm)
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # by find_chains
            fused = fuse_conv_bn_eval(conv, norm)
            fused.to(memory_format=_format_of(conv))  # type: ignore[call-overload]  # missing in torch's stubs
            set_submodule(model, chain.conv, fused)
            set_submodule(model, chain.norm, nn.Identity())


def set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place called `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _follow(node: fx.Node, modules: dict[str, nn.Module], calls: dict[str, list[fx.Node]]) -> Chain:
    conv, found = str(node.target), {}
    stages = [("norm", _is_norm), ("relu", lambda module: isinstance(module, nn.ReLU)), ("pool", can_pool)]
    while stages and len(node.users) == 1:
        after = next(iter(node.users))
        name = str(after.target)
        if after.op != "call_module" or len(calls[name]) != 1:
            break
        while stages and not stages[0][1](modules[name]):
            stages.pop(0)
        if stages:
            found[stages.pop(0)[0]] = name
            node = after
    return Chain(conv, **found)


def _is_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def _format_of(conv: nn.Module) -> torch.memory_format:
    weight = conv.get_parameter("weight")
    return torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
