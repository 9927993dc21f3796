"""One measurement of `reuse-inference` in a process of its own: `python -m thrifty.bench.inference_case REQUEST`.

REQUEST is the JSON that `reuse_inference` makes; the last line of standard output is the row.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import thrifty.models
from thrifty._load_native import native
from thrifty.bench.timing import calibrate, interleave, median_min_max
from thrifty.data import ImageBatches, ImageData, ImageSplit, load_images
from thrifty.data.subset import stratified
from thrifty.reuse import freeze, frozen_report
from thrifty.reuse.frozen_chains import find_chains, fold_norms
from thrifty.train.folder import load_weights

CALIBRATION_BATCHES = 8


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one network under the instruction set and threads of this process."""
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    data = load_images(request["data"], root=request["data_root"], limit_train=request["train_images"])
    model = _trained(request, data)
    dense = copy.deepcopy(model)
    fold_norms(dense, find_chains(dense))
    frozen = freeze(model, _calibration(request, data), max_loss=request["max_loss"])
    x = next(iter(_batches(data.test, request["batch"], data)))[0]
    arms = {"dense": _call(dense, x), "reuse": _call(frozen, x)}
    if not request["small"]:  # neither serves a machine without vectors
        half = copy.deepcopy(dense).bfloat16()
        arms["bf16"] = _call(half, x.bfloat16())
        if not request["quick"]:
            arms["compiled"] = _call(torch.compile(dense), x)
    repeats = calibrate(arms, request["budget_s"], most=60)
    spread = {name: median_min_max(seconds) for name, seconds in interleave(arms, repeats, warmup=0).items()}
    right, right_frozen, changed, count = _answers(dense, frozen, data, request["batch"])
    dense_s, reuse_s = spread["dense"].median, spread["reuse"].median
    return {
        "network": request["network"],
        "data": data.source,
        "isa": native.isa() if native else "reference",
        "threads": torch.get_num_threads(),
        "batch": len(x),
        "dense_s": dense_s,
        "dense_min_s": spread["dense"].min,
        "dense_max_s": spread["dense"].max,
        "bf16_s": spread["bf16"].median if "bf16" in spread else None,
        "compiled_s": spread["compiled"].median if "compiled" in spread else None,
        "reuse_s": reuse_s,
        "reuse_min_s": spread["reuse"].min,
        "reuse_max_s": spread["reuse"].max,
        "speedup": dense_s / reuse_s,
        "dense_accuracy": right / count,
        "accuracy_loss": (right - right_frozen) / count,
        "changed_answers": changed / count,
        "expected_loss": frozen_report(frozen).expected_loss,
        "repeats": repeats,
        "layers": frozen_report(frozen).to_dict()["layers"],
    }


def _trained(request: dict[str, Any], data: ImageData) -> nn.Module:
    model = thrifty.models.build(
        request["network"], num_classes=len(data.classes), in_channels=data.channels, image_size=data.image_size
    )
    model.load_state_dict(load_weights(request["folder"]))
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs


def _calibration(request: dict[str, Any], data: ImageData) -> list[Tensor]:
    """Training images that the network was not trained on, prepared as the others were."""
    whole = load_images(request["data"], root=request["data_root"], limit_test=1).train
    used = stratified(whole.labels.numpy(), request["train_images"], seed=0)
    rest = np.setdiff1d(np.arange(len(whole)), used)
    np.random.default_rng(0).shuffle(rest)
    kept = torch.from_numpy(rest[: CALIBRATION_BATCHES * request["batch"]])
    return [
        images for images, _ in _batches(ImageSplit(whole.images[kept], whole.labels[kept]), request["batch"], data)
    ]


def _batches(split: ImageSplit, size: int, data: ImageData) -> ImageBatches:
    return ImageBatches(split, size, mean=data.mean, std=data.std, augment=None, shuffle=False, seed=0)


def _call(model: Callable[[Tensor], Any], x: Tensor) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return model(x)

    return call


def _answers(dense: nn.Module, frozen: nn.Module, data: ImageData, size: int) -> tuple[int, int, int, int]:
    """Right answers of both, answers that differ, images: over the test set."""
    right = right_frozen = changed = count = 0
    with torch.inference_mode():
        for images, labels in _batches(data.test, size, data):
            named, named_frozen = dense(images).argmax(1), frozen(images).argmax(1)
            right += int((named == labels).sum())
            right_frozen += int((named_frozen == labels).sum())
            changed += int((named != named_frozen).sum())
            count += len(labels)
    return right, right_frozen, changed, count


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
