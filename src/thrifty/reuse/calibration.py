"""The rates behind `cost.CostModel`: every operation timed on a few small layers, in some seconds.

The layers span what convolutions have in common networks: kernels of 1, 3 and 5, 64 to 512 channels, maps of 4 to 32
pixels, pieces of 8 to 64 channels. Their codes repeat from pixel to pixel and some are much more frequent than others,
as those of activations are. A calibration holds for a number of threads; it is kept in memory, and in a folder where
one is given, under the fingerprint of the machine, of the versions and of the operations.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from thrifty.core.atomic import write_json
from thrifty.core.codec import decode_fields
from thrifty.core.errors import UsageError
from thrifty.core.machine import machine
from thrifty.reuse.cost import OPERATIONS, REUSE, CostModel, Sample
from thrifty.reuse.problem import LayerShape
from thrifty.reuse.workload import CALLS, make_material

FORMAT = 1


def _layer(images: int, channels: int, outputs: int, side: int, kernel: int) -> LayerShape:
    edge = kernel // 2
    return LayerShape(images, channels, outputs, side, side, (kernel, kernel), padding=(edge, edge, edge, edge))


# (images, channels, outputs, side of the map, kernel), length, bits
LAYERS: tuple[tuple[LayerShape, int, int], ...] = (
    (_layer(32, 3, 64, 32, 5), 3, 6),
    (_layer(16, 3, 64, 64, 3), 3, 8),
    (_layer(32, 64, 64, 16, 5), 64, 8),
    (_layer(32, 64, 64, 16, 5), 16, 8),
    (_layer(32, 64, 64, 14, 5), 32, 6),
    (_layer(16, 64, 64, 32, 3), 32, 8),
    (_layer(8, 64, 128, 32, 3), 16, 6),
    (_layer(16, 96, 256, 15, 5), 64, 8),
    (_layer(16, 96, 256, 15, 5), 16, 8),
    (_layer(16, 96, 256, 15, 5), 32, 6),
    (_layer(32, 128, 128, 16, 3), 32, 8),
    (_layer(4, 256, 256, 28, 3), 64, 6),
    (_layer(4, 256, 256, 28, 3), 16, 8),
    (_layer(32, 256, 384, 7, 3), 32, 8),
    (_layer(64, 384, 256, 7, 3), 64, 8),
    (_layer(32, 384, 384, 7, 3), 16, 6),
    (_layer(4, 512, 512, 16, 3), 32, 6),
    (_layer(4, 512, 512, 16, 3), 64, 8),
    (_layer(4, 512, 512, 16, 3), 16, 8),
    (_layer(8, 512, 512, 8, 3), 32, 8),
    (_layer(32, 512, 512, 4, 3), 64, 6),
    (_layer(64, 256, 256, 8, 1), 32, 8),
    (_layer(32, 64, 256, 16, 1), 8, 6),
)
LONG_S = 0.03  # an operation that takes longer is timed twice, no more


def measure(
    layers: Sequence[tuple[LayerShape, int, int]] = LAYERS,
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Sample]:
    """Time every operation on every layer.

    Args:
        layers: (layer, length, bits).
        repeats: runs of each operation after the first, at most; the quickest counts, as noise only adds.
        clock: seconds, for tests.

    Returns:
        A sample for each operation and layer; of the dense ones, for each layer without its setting.

    Raises:
        UsageError: no layer, or no repeat.
    """
    if not layers or repeats < 1:
        raise UsageError("a calibration needs at least one layer and one repeat")
    samples: list[Sample] = []
    dense: set[LayerShape] = set()
    with torch.no_grad():
        for number, (shape, length, bits) in enumerate(layers):
            material = make_material(shape, length, bits, seed=number)
            for name, operation in OPERATIONS.items():
                if REUSE not in operation.ways and shape in dense:
                    continue
                seconds = _quickest(CALLS[name](material), repeats, clock)
                samples.append(Sample(name, material.problem, seconds))
            dense.add(shape)
    return samples


def _quickest(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    found, runs = math.inf, 0
    while runs <= repeats and not (runs >= 2 and found > LONG_S):
        start = clock()
        call()
        found = min(found, clock() - start)
        runs += 1
    return max(found, 1e-9)  # a clock too coarse for a small operation


_models: dict[str, CostModel] = {}


def cost_model(folder: Path | None = None) -> CostModel:
    """The cost model of this machine at torch's present number of threads; calibrated when first asked for.

    Args:
        folder: where calibrations are kept over processes; a file there that cannot be read is measured again.
    """
    mark = _fingerprint()
    if mark not in _models:
        path = None if folder is None else folder / f"reuse-cost-{mark}.json"
        samples = _read(path, mark)
        if samples is None:
            samples = measure()
            if path is not None:
                write_json(path, {"fingerprint": mark, "samples": [asdict(sample) for sample in samples]})
        _models[mark] = CostModel(samples)
    return _models[mark]


def forget() -> None:
    """Drop the calibrations kept in memory."""
    _models.clear()


def _fingerprint() -> str:
    facts = {key: value for key, value in machine().items() if key not in ("date", "python", "gpu")}
    text = json.dumps([FORMAT, facts, list(OPERATIONS), [repr(layer) for layer in LAYERS]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path | None, mark: str) -> list[Sample] | None:
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["fingerprint"] != mark:
            return None
        samples = [Sample(**decode_fields(Sample, row, "sample")) for row in content["samples"]]
        CostModel(samples)
    except (ValueError, KeyError, TypeError, AttributeError, UsageError, OSError):
        return None
    return samples
