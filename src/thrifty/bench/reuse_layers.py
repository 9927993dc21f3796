"""Convolutions of the papers' networks, dense against reuse, on activations of real images in training.

Dense is torch's own convolution in channels_last (oneDNN on a CPU); reuse is the layer that `thrifty.apply_` makes, all
of its work counted, its codebook carried over the training steps before. Both take the same input and output gradient,
in turn. Forward+backward computes the gradients of input, weight and bias. `error` is |x - x_q|^2 / variance of the
input. Networks with BatchNorm run on clusters; those without it, whose gradients are mostly zeros, by exact products of
the nonzeros, along the ways that the layer's probe has chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.activations import ConvCase, Source, capture, load_or_slice
from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.reuse import ReuseConv2d

# cifarnet conv2; alexnet conv2-5; vgg19 conv3_2, conv4_2, conv5_2 (the others of a block have their shapes)
SOURCES = (
    Source("cifarnet-bn", "cifar10", 128, (1,)),
    Source("alexnet-bn", "imagenette-128", 128, (1, 2, 3, 4)),
    Source("vgg19-bn", "imagenette-128", 16, (5, 9, 13)),
)
# the same layers without BatchNorm
EXACT_SOURCES = (
    Source("cifarnet", "cifar10", 128, (1,)),
    Source("alexnet", "imagenette-128", 128, (1, 2, 3, 4)),
    Source("vgg19", "imagenette-128", 16, (5, 7, 9, 11, 13, 15)),
)
SETTINGS = ((64, 8), (32, 8), (32, 6), (16, 6), (16, 8))  # (L, H), scope: the batch
QUICK_SETTINGS = ((32, 8), (16, 6))
ERROR_LIMIT = 0.2


@benchmark("reuse-layers", "convolutions of CifarNet, AlexNet and VGG-19 on real activations, dense against reuse")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Time every layer under every setting, forward and forward+backward, against the dense convolution."""
    rows: list[dict[str, Any]] = []
    data_names = []
    for source in (*SOURCES[:2], *EXACT_SOURCES[:2]) if quick else (*SOURCES, *EXACT_SOURCES):
        settings: tuple[tuple[int, int] | None, ...] = QUICK_SETTINGS if quick else SETTINGS
        if source in EXACT_SOURCES:
            settings = (None,)
        data = load_or_slice(source.data, data_root, images=source.batch * 10)
        data_names.append(data.source)
        steps = 5 if quick else 20
        console.print(f"{source.network} on {data.source}: {steps} steps of {source.batch}, then one batch is taken")
        for case in capture(source, data, steps, before=3):
            for setting in settings:
                rows.append(layer_row(source, case, setting, budget_s=1.0 if quick else 4.0))
    fair = [row["speedup"] for row in rows if row["error"] <= ERROR_LIMIT]
    summary = {
        "error_limit": ERROR_LIMIT,
        "rows_within_limit": len(fair),
        "min_speedup": min(fair, default=None),
        "median_speedup": statistics.median(fair) if fair else None,
    }
    columns = ("layer", "setting", "remaining_ratio", "error", "nonzero_input", "nonzero_gradient", "dense_s",
               "dense_gflops", "reuse_s", "speedup", "forward_speedup")  # fmt: skip
    held = {"data": sorted(set(data_names)), "quick": quick, "memory_format": "channels_last", "dtype": "float32"}
    return BenchResult(held, rows, summary, columns)


def layer_row(source: Source, case: ConvCase, setting: tuple[int, int] | None, budget_s: float) -> dict[str, Any]:
    """Time one layer under one setting, (L, H) or None for exact; the keys are those of the benchmark's rows."""
    import torch

    from thrifty.bench.timing import calibrate, interleave, median_min_max
    from thrifty.core.surgery import adopt
    from thrifty.ops.skip_conv2d import share_of_nonzeros
    from thrifty.reuse import ReuseConv2d, Stage
    from thrifty.reuse.state import ReuseState

    stages = () if setting is None else (Stage(min(setting[0], case.layer.in_channels), setting[1]),)
    state = ReuseState(case.name, 0, stages, skip_zeros=setting is None)
    layer = adopt(case.layer, ReuseConv2d, reuse=state)
    x = case.input.to(memory_format=torch.channels_last).requires_grad_()
    if setting is None:
        choose_way(layer, _both_ways(layer, x, case))
    else:
        for earlier in case.before:
            layer(earlier)
            state.learn()
    arms = {
        "dense": _both_ways(case.layer, x, case),
        "reuse": _both_ways(layer, x, case),
        "dense_forward": _forward(case.layer, x),
        "reuse_forward": _forward(layer, x),
    }
    repeats = calibrate(arms, budget_s, most=30)
    layer.counters.reset()
    stages_s = _stages(layer, arms["reuse"])
    spread = {name: median_min_max(seconds) for name, seconds in interleave(arms, repeats, warmup=0).items()}
    counters = layer.counters
    dense_s, reuse_s = spread["dense"].median, spread["reuse"].median
    flops = 6 * case.gradient.numel() * case.layer.weight[0].numel()
    return {
        "layer": f"{source.network} {case.name}",
        "batch": int(x.shape[0]),
        "input": list(x.shape[1:]),
        "outputs": int(case.gradient.shape[1]),
        "kernel": list(case.layer.kernel_size),
        "setting": f"L={stages[0].length} H={stages[0].bits}" if stages else "exact",
        "remaining_ratio": counters.remaining_ratio if stages else counters.macs / counters.dense_macs,
        "error": counters.error if stages else 0.0,
        "nonzero_input": share_of_nonzeros(case.input),
        "nonzero_gradient": share_of_nonzeros(case.gradient),
        "dense_s": dense_s,
        "dense_min_s": spread["dense"].min,
        "dense_max_s": spread["dense"].max,
        "dense_gflops": flops / dense_s / 1e9,
        "reuse_s": reuse_s,
        "reuse_min_s": spread["reuse"].min,
        "reuse_max_s": spread["reuse"].max,
        "speedup": dense_s / reuse_s,
        "dense_forward_s": spread["dense_forward"].median,
        "reuse_forward_s": spread["reuse_forward"].median,
        "forward_speedup": spread["dense_forward"].median / spread["reuse_forward"].median,
        "stages_s": stages_s,
        "repeats": repeats,
    }


def choose_way(layer: ReuseConv2d, call: Callable[[], Any]) -> None:
    """Let the layer's probe measure its ways of computing, as in the first steps of a training."""
    from thrifty.reuse.probe import Probe

    probe = Probe(layer.reuse)
    while layer.reuse.probing:
        call()
        probe.end_step()


def _both_ways(layer, x, case: ConvCase) -> Callable[[], Any]:  # type: ignore[no-untyped-def]
    import torch

    leaves = [t for t in (x, layer.weight, layer.bias) if t is not None]
    return lambda: torch.autograd.grad(layer(x), leaves, case.gradient)


def _forward(layer, x) -> Callable[[], Any]:  # type: ignore[no-untyped-def]
    import torch

    def call() -> Any:
        with torch.no_grad():
            return layer(x)

    return call


def _stages(layer: ReuseConv2d, call: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Mean seconds by stage of one forward+backward."""
    for _ in range(repeats):
        call()
    return {stage: seconds / repeats for stage, seconds in layer.counters.stages_s.items()}
