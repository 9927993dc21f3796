"""Names of the built-in networks, and `build` for them and for the user's own functions."""

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from thrifty.core.errors import ModelError, UsageError
from thrifty.models.own import build_own


@dataclass(frozen=True)
class _Network:
    module: str
    function: str


_NETWORKS = {
    "cifarnet": _Network("cifarnet", "cifarnet"),
    "cifarnet-bn": _Network("cifarnet", "cifarnet_bn"),
    "alexnet": _Network("alexnet", "alexnet"),
    "alexnet-bn": _Network("alexnet", "alexnet_bn"),
    "vgg19": _Network("vgg", "vgg19"),
    "vgg19-bn": _Network("vgg", "vgg19_bn"),
    "resnet50": _Network("resnet", "resnet50"),
    "lstm": _Network("lstm", "lstm"),
    "transformer": _Network("transformer", "transformer"),
}


def names() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(_NETWORKS)


def build(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    **options: Any,
) -> nn.Module:
    """Build a network with initial weights from torch's global generator.

    Args:
        name: one of `names()`, or `package.module:function`: that function is called with those of the keywords
            `num_classes`, `in_channels`, `image_size` that it accepts, and with `options`.
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: side in pixels, or (height, width).
        options: keywords of one network, such as `dropout=0.1` or `vocabulary=10000`.

    Returns:
        A module in training mode that maps images `(B, in_channels, H, W)` float to logits `(B, num_classes)`.

    Raises:
        UsageError: an unknown name, a size or count below 1, an option that the network does not have.
        ModelError: images too small for the network, or a function of the user that fails.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(*size, num_classes, in_channels) < 1:
        raise UsageError(
            f"num_classes={num_classes}, in_channels={in_channels}, image_size={image_size}: each must be at least 1"
        )
    if ":" in name:
        return build_own(name, num_classes=num_classes, in_channels=in_channels, image_size=size, **options)
    check_name(name)
    network = _NETWORKS[name]
    module = importlib.import_module(f"thrifty.models.{network.module}")
    smallest = module.SMALLEST
    if min(size) < smallest:
        raise ModelError(
            f"{name} needs images of at least {smallest} x {smallest} px, not {size[0]} x {size[1]}: "
            f"use --image-size {smallest} or more, or a smaller network such as cifarnet"
        )
    try:
        return getattr(module, network.function)(num_classes, in_channels, size, **options)
    except TypeError as error:
        raise UsageError(f"{name} does not take these options: {error}") from error


def check_name(name: str) -> None:
    """Raise UsageError unless `name` is a built-in network or has the form `package.module:function`."""
    if ":" in name or name in _NETWORKS:
        return
    near = difflib.get_close_matches(name, _NETWORKS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UsageError(
        f"unknown model '{name}'{hint}. Known: {', '.join(_NETWORKS)}, or your own as package.module:function"
    )
