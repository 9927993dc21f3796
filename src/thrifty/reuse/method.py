"""How reuse treats each type of layer: the table behind `thrifty.apply_(model, [Reuse(...)])`."""

from typing import Any

from torch import nn

from thrifty.core.registry import Handler, Method, register_method
from thrifty.core.surgery import adopt
from thrifty.reuse.attention import change_attention, change_out_projection
from thrifty.reuse.config import Reuse
from thrifty.reuse.controller import Plateau
from thrifty.reuse.layers import ReuseConv2d, ReuseLinear
from thrifty.reuse.recurrent import change_gru, change_lstm
from thrifty.reuse.sequential import ReuseSequential
from thrifty.reuse.state import ReuseState


def change_conv2d(conv: nn.Conv2d, name: str, config: Reuse) -> nn.Module | str:
    """The replacement, or why the convolution stays dense."""
    if conv.groups > 1:
        return f"groups={conv.groups}: each output sees few channels, so there is little to share"
    short = config.pieces == "auto" and conv.in_channels < config.min_channels
    if short and not config.skip_zeros:
        return f"{conv.in_channels} input channels: pieces this short cost more to look up than to multiply"
    state = ReuseState(
        name,
        config.seed,
        config.stages,
        config.pieces == "patches",
        config.encoder,
        skip_zeros=config.skip_zeros,
        clusters_pay=not short,
        gradients=config.gradients,
    )
    return adopt(conv, ReuseConv2d, reuse=state)


def change_linear(linear: nn.Linear, name: str, config: Reuse) -> nn.Module | str:
    """The replacement, or why the linear layer stays dense."""
    if not config.linear:
        return "a linear layer pays only where many rows share an input; Reuse(linear=True) changes it"
    state = ReuseState(name, config.seed, config.stages, encoder=config.encoder)
    return adopt(linear, ReuseLinear, reuse=state)


def make_controller(config: Reuse, layers: dict[str, Any]) -> Plateau:
    """One controller over all the layers that were changed."""
    return Plateau(config, [layer.reuse for layer in layers.values()])


HANDLERS: dict[type[nn.Module], Handler] = {
    nn.Conv2d: change_conv2d,
    nn.Linear: change_linear,
    nn.LSTM: change_lstm,
    nn.GRU: change_gru,
    nn.MultiheadAttention: change_attention,
    nn.modules.linear.NonDynamicallyQuantizableLinear: change_out_projection,
}
register_method(Reuse, Method(HANDLERS, make_controller, containers={nn.Sequential: ReuseSequential}))
