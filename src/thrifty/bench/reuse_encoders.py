"""Error against cost of the ways to give pieces their codes, on stored activations of the papers' networks in training.

`sign` and `codebook` are the encoders of `thrifty.reuse`, the codebook carried over the training steps before, as in
training. `k-means` is the bound: as many rounds on this very batch as it takes to settle, which costs more than the
layer. `error` is |x - x_q|^2 / variance with the mean of each cluster as x_q; `encode_s` is codes alone, and
`dense_s` the forward and backward pass of the dense convolution, for scale.
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
    from torch import Tensor

SOURCES = (
    Source("cifarnet-bn", "cifar10", 128, (1,)),
    Source("alexnet-bn", "imagenette-128", 32, (1, 3)),
    Source("vgg19-bn", "imagenette-128", 8, (5, 9)),
)
LENGTHS, BITS = (8, 16, 32), (6, 8)
ROUNDS = 12  # of k-means for the bound


@benchmark("reuse-encoders", "error against cost of hashing, codebooks and k-means on real activations")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Encode every layer's input in every way."""
    rows: list[dict[str, Any]] = []
    names = []
    for source in SOURCES[:1] if quick else SOURCES:
        data = load_or_slice(source.data, data_root, images=source.batch * 10)
        names.append(data.source)
        steps = 5 if quick else 30
        console.print(f"{source.network} on {data.source}: {steps} steps of {source.batch}, then one batch is taken")
        for case in capture(source, data, steps, before=4):
            for length in LENGTHS[1:] if quick else LENGTHS:
                for bits in BITS:
                    rows.extend(_rows(source, case, length, bits))
    summary = {
        f"{encoder}_error_vs_k_means": statistics.median(
            row["error"] / bound["error"] for row, bound in zip(_of(rows, encoder), _of(rows, "k-means"), strict=True)
        )
        for encoder in ("sign", "codebook")
    }
    settings = {"data": sorted(set(names)), "quick": quick, "rounds": ROUNDS}
    columns = ("layer", "encoder", "group", "clusters", "error", "encode_s", "dense_s")
    return BenchResult(settings, rows, summary, columns)


def _of(rows: list[dict[str, Any]], encoder: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["encoder"] == encoder]


def _rows(source: Source, case: ConvCase, length: int, bits: int) -> list[dict[str, Any]]:
    from thrifty.bench.timing import interleave, median_min_max
    from thrifty.ops.reuse_conv2d import pixels_of
    from thrifty.reuse.encoder import CodebookEncoder, SignEncoder

    rows_PC = pixels_of(case.input).contiguous()
    mean_C = rows_PC.mean(0)
    sign, codebook = SignEncoder(length, bits, 0), CodebookEncoder(length, bits, 0)
    for x in (*case.before, case.input):
        _learn(codebook, pixels_of(x).contiguous())
    bound = CodebookEncoder(length, bits, 0)
    for _ in range(ROUNDS):
        _learn(bound, rows_PC)
    encoders: dict[str, Callable[[], Tensor]] = {
        "sign": lambda: sign.codes(rows_PC, mean_C),
        "codebook": lambda: codebook.codes(rows_PC, mean_C),
        "k-means": lambda: bound.codes(rows_PC, mean_C),
    }
    timed = interleave({**encoders, "dense": _dense(case)}, 5)
    dense_s = median_min_max(timed["dense"]).median
    rows = []
    for name, encode in encoders.items():
        clusters, error = _quality(rows_PC, encode(), length)
        encode_s = median_min_max(timed[name]).median * (ROUNDS if name == "k-means" else 1)
        rows.append({
            "layer": f"{source.network} {case.name}", "encoder": name, "group": length, "bits": bits,
            "clusters": clusters, "error": error, "encode_s": encode_s, "dense_s": dense_s,
        })  # fmt: skip
    return rows


def _learn(encoder: Any, rows_PC: Tensor) -> None:
    from thrifty.ops.clusters import Clusters
    from thrifty.ops.group_codes import group_codes
    from thrifty.ops.reuse_conv2d import centroids_of

    codes = encoder.codes(rows_PC, rows_PC.mean(0))
    clusters = Clusters(*group_codes(codes, rows_PC.shape[0]))
    encoder.see(rows_PC, codes, clusters, centroids_of(rows_PC, clusters, encoder.length))
    encoder.learn()


def _quality(rows_PC: Tensor, codes: Tensor, length: int) -> tuple[int, float]:
    from thrifty.ops.clusters import Clusters
    from thrifty.ops.group_codes import group_codes
    from thrifty.ops.reuse_conv2d import centroids_of, moments_of, quantisation_error

    clusters = Clusters(*group_codes(codes, rows_PC.shape[0]))
    error = quantisation_error(centroids_of(rows_PC, clusters, length), clusters, moments_of(rows_PC))
    return int(clusters.counts.numel()), error


def _dense(case: ConvCase) -> Callable[[], Any]:
    import torch

    x = case.input.detach().requires_grad_()
    return lambda: torch.autograd.grad(case.layer(x), (x, case.layer.weight), case.gradient)
