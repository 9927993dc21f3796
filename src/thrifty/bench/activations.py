"""Inputs and output gradients of a network's convolutions, from real images, some steps into training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thrifty.data import ImageData


@dataclass(frozen=True)
class ConvCase:
    """One convolution as training meets it: the layer, its input (N, C, H, W) and its output's gradient.

    `before` holds the inputs of the training steps just before, oldest first.
    """

    name: str
    layer: nn.Conv2d
    input: Tensor
    gradient: Tensor
    before: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a network's activations come from; the packaged slice stands in where the data are not found."""

    network: str
    data: str
    batch: int
    layers: tuple[int, ...]


def load_or_slice(name: str, root: Path | None, images: int) -> ImageData:
    """`images` training images of the named set, or of the packaged slice where the set is not found."""
    from thrifty.core.errors import DataError
    from thrifty.data import load_images

    try:
        return load_images(name, root=root, limit_train=images, limit_test=50, download=False)
    except DataError:
        if root is not None:
            raise  # whoever names a folder wants what is in it
        return load_images("fashion-mnist-slice", limit_train=images, limit_test=50)


def capture(source: Source, data: ImageData, steps: int, *, before: int = 0, seed: int = 0) -> list[ConvCase]:
    """Train `source.network` for `steps` steps, then take one more batch's activations at `source.layers`.

    `layers` are positions among the network's convolutions, from 0. The network trains with SGD and momentum at a
    small, constant rate: enough to leave the initial weights, not a recipe. Inputs of the last `before` of those steps
    are kept too.
    """
    import torch
    from torch import nn

    from thrifty.data import Augment, ImageBatches
    from thrifty.models import build

    torch.manual_seed(seed)
    height, width, channels = data.train.images.shape[1:]
    model = build(
        source.network, num_classes=len(data.classes), in_channels=channels, image_size=(int(height), int(width))
    )
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    convolutions = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    chosen = [convolutions[i] for i in source.layers]
    batches = _forever(
        lambda epoch: ImageBatches(
            data.train, source.batch, mean=data.mean, std=data.std, augment=Augment(), shuffle=True, seed=seed,
            epoch=epoch, drop_last=True,
        )
    )  # fmt: skip
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name, _ in chosen}
    for step, (images, labels) in zip(range(steps + 1), batches, strict=False):
        hooks = [_watch(name, layer, seen) for name, layer in chosen] if step >= steps - before else []
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        for hook in hooks:
            hook.remove()
    return [
        ConvCase(name, layer, *seen[name][-1], before=tuple(x for x, _ in seen[name][:-1])) for name, layer in chosen
    ]


def _watch(name, layer, seen):  # type: ignore[no-untyped-def]
    def forward(module, inputs, output):  # type: ignore[no-untyped-def]
        x = inputs[0].detach()
        output.register_hook(lambda gradient: seen[name].append((x, gradient.detach())))

    return layer.register_forward_hook(forward)


def _forever(batches):  # type: ignore[no-untyped-def]
    epoch = 0
    while True:
        yield from batches(epoch)
        epoch += 1
