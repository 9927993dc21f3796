"""Gradient profiles of the built-in networks, computed from the models: no run, no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thrifty.distributed import GradientProfile
    from thrifty.distributed.trace import Roofline

# network -> images a worker and step, where nothing else is said; the papers' networks see 224 px and 1000 classes
BATCHES = {"alexnet": 64, "alexnet-bn": 64, "vgg19": 32, "vgg19-bn": 32, "resnet50": 32, "transformer": 64}
IMAGE_SIZE, CLASSES = 224, 1000


def network_profile(
    model: str,
    *,
    batch: int | None = None,
    image_size: int = IMAGE_SIZE,
    num_classes: int = CLASSES,
    machine: Roofline | None = None,
) -> GradientProfile:
    """The profile of a network of `thrifty.models` on a machine described by its roofline.

    Args:
        model: its name, or the user's own as package.module:function.
        batch: images a worker and step; as in `BATCHES`, else 32, where None.
        image_size: side of the images in pixels.
        num_classes: width of the output.
        machine: `trace.P40` where None.

    Raises:
        UsageError: an unknown network, or a batch below 1.
        ModelError: images too small, or a network that cannot be traced.
    """
    import torch

    from thrifty import models
    from thrifty.core.errors import UsageError
    from thrifty.distributed.trace import P40, meta, trace_profile

    batch = BATCHES.get(model, 32) if batch is None else batch
    if batch < 1:
        raise UsageError(f"a batch has at least one image, got {batch}")
    with torch.device("meta"):
        network = models.build(model, num_classes=num_classes, image_size=image_size)
    return trace_profile(network, [meta(batch, 3, image_size, image_size)], machine or P40)
