"""One measurement of `reuse-inference` in a process of its own: `python -m thrifty.bench.inference_case REQUEST`.

REQUEST is the JSON that `reuse_inference` makes; the last line of standard output is the row.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import thrifty.models
from thrifty._load_native import native
from thrifty.bench.timing import calibrate, interleave, median_min_max
from thrifty.data import ImageBatches, ImageData, ImageSplit, load_images
from thrifty.data.images import make_image_data
from thrifty.data.subset import stratified
from thrifty.reuse import freeze, frozen_report
from thrifty.reuse.frozen_chains import find_chains, fold_norms
from thrifty.reuse.frozen_dtype import in_dtype
from thrifty.train.folder import load_weights

CALIBRATION_BATCHES = 8
ARMS = ("dense", "bf16", "compiled", "reuse", "reuse_bf16")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one network under the instruction set and threads of this process."""
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    data, calibration = _data(request)
    model = _trained(request, data)
    dense = copy.deepcopy(model)
    fold_norms(dense, find_chains(dense))
    x = next(iter(_batches(data.test, request["batch"], data)))[0]
    frozen = partial(freeze, model, calibration, max_loss=request["max_loss"])
    models: dict[str, Any] = {"dense": dense, "reuse": frozen(dtype=torch.float32)}
    if not request["small"]:  # none of these serves a machine without vectors
        models["bf16"] = in_dtype(dense, torch.bfloat16)
        models["reuse_bf16"] = frozen(dtype=torch.bfloat16)
        if not request["quick"]:
            models["compiled"] = torch.compile(dense)
    arms = {name: _call(each, x) for name, each in models.items()}
    repeats = calibrate(arms, request["budget_s"], most=60)
    spread = {name: median_min_max(seconds) for name, seconds in interleave(arms, repeats, warmup=0).items()}
    named = {name: _named(models[name], data, request["batch"]) for name in models if name != "compiled"}
    ours = [name for name in models if name.startswith("reuse")]
    best = min(ours, key=lambda name: spread[name].median)
    best_stock_s = min(spread[name].median for name in models if name not in ours)
    right = {name: float((answers == data.test.labels).float().mean()) for name, answers in named.items()}
    report = frozen_report(models[best])
    return {
        "network": request["network"],
        "data": data.source,
        "isa": native.isa() if native else "reference",
        "threads": torch.get_num_threads(),
        "batch": len(x),
        **{f"{name}_s": spread[name].median if name in spread else None for name in ARMS},
        **{f"{name}_min_s": spread[name].min for name in spread},
        **{f"{name}_max_s": spread[name].max for name in spread},
        "best": best,
        "speedup": spread["dense"].median / spread[best].median,
        "over_best_stock": best_stock_s / spread[best].median,
        "dense_accuracy": right["dense"],
        "accuracy_loss": right["dense"] - right[best],
        "changed_answers": float((named["dense"] != named[best]).float().mean()),
        "accuracy_losses": {name: right["dense"] - right[name] for name in right},
        "expected_loss": report.expected_loss,
        "repeats": repeats,
        "layers": report.to_dict()["layers"],
    }


def _trained(request: dict[str, Any], data: ImageData) -> nn.Module:
    model = thrifty.models.build(
        request["network"], num_classes=len(data.classes), in_channels=data.channels, image_size=data.image_size
    )
    model.load_state_dict(load_weights(request["folder"]))
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs


def _data(request: dict[str, Any]) -> tuple[ImageData, list[Tensor]]:
    """What the network was trained on, and batches of training images that it was not trained on."""
    whole = load_images(request["data"], root=request["data_root"])
    split = whole.train
    used = stratified(split.labels.numpy(), request["train_images"], seed=0)
    data = make_image_data(whole.name, _part(split, used), whole.test, whole.classes, source=whole.source)
    rest = np.setdiff1d(np.arange(len(split)), used)
    np.random.default_rng(0).shuffle(rest)
    kept = _part(split, rest[: CALIBRATION_BATCHES * request["batch"]])
    return data, [images for images, _ in _batches(kept, request["batch"], data)]


def _part(split: ImageSplit, indexes: np.ndarray) -> ImageSplit:
    kept = torch.from_numpy(indexes)
    return ImageSplit(split.images[kept], split.labels[kept])


def _batches(split: ImageSplit, size: int, data: ImageData) -> ImageBatches:
    return ImageBatches(split, size, mean=data.mean, std=data.std, augment=None, shuffle=False, seed=0)


def _call(model: Callable[[Tensor], Any], x: Tensor) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return model(x)

    return call


def _named(model: nn.Module, data: ImageData, size: int) -> Tensor:
    """The class that the model names for each image of the test set."""
    with torch.inference_mode():
        return torch.cat([model(images).argmax(1) for images, _ in _batches(data.test, size, data)])


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
