"""Hidden layers of 1,000 neurons of which few are computed: hashing against dropout, adaptive dropout, winner-take-all.

Source of the experiment: Spring & Shrivastava, KDD 2017. Fashion-MNIST, and RECTANGLES and CONVEX made as they were
published; one, two and three hidden layers; the share of active neurons is the same in training and test.

dense: all neurons. dropout: random ones (scaled; the test is dense). adaptive: a neuron is kept with the probability
sigmoid(a z + b), b set so that the share comes out (Ba & Frey, 2013). wta: the largest. lsh: those in the input's
buckets (`LSH(mode="each")`). `macs` are multiply-adds a training row in the hidden layers, hashing and its upkeep
counted. Adaptive dropout and winner-take-all compute every neuron before they choose, so they save nothing. Deeper
hashed networks lose more, and the wall clock loses to dense at this width: shown, not hidden.

It can be run in pieces: with `--json`, rows that the file holds of other sets, depths, shares and methods are kept, as
long as they were trained alike. The dense row is trained anew in each piece, so that seconds compare within it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from thrifty.data import ImageData

WIDTH = 1000
METHODS = ("dropout", "adaptive", "wta", "lsh")
SETS = ("fashion-mnist", "rectangles", "convex")
NETWORK = ("data", "layers", "method", "active")  # what names a row
TRAINED_BY = ("width", "epochs", "batch", "lr", "limit_train", "limit_test", "quick")
QUICK: dict[str, Any] = {
    "sets": SETS[:1], "layers": ("1",), "shares": ("0.05",), "epochs": 1, "limit_train": 4000, "limit_test": 1000,
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        sets: of fashion-mnist, rectangles and convex.
        layers: numbers of hidden layers.
        shares: active neurons, from above 0 to 1.
        methods: of dropout, adaptive, wta and lsh; dense is always there.
        epochs, batch, lr: of every network, with Adam.
        limit_train, limit_test: images used, at most.
    """

    sets: tuple[str, ...] = SETS
    layers: tuple[str, ...] = ("1", "2", "3")
    shares: tuple[str, ...] = ("0.05", "0.1", "0.25", "0.5")
    methods: tuple[str, ...] = METHODS
    epochs: int = 5
    batch: int = 64
    lr: float = 1e-3
    limit_train: int | None = None
    limit_test: int | None = None


@benchmark("lsh-kdd17", "1 to 3 hidden layers of 1,000 neurons, 5 to 50 % active: hashing, dropout, winner-take-all")
def run(
    quick: bool,
    console: Console,
    data_root: Path | None = None,
    options: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> BenchResult:
    """Train every network from the same start on the same batches; rows in `earlier` of other networks are kept."""
    choices, depths, shares = _choices(quick, options)
    rows, sources = [], []
    for name in choices.sets:
        data = _load(name, data_root, choices)
        sources.append(data.source)
        for layers in depths:
            rows.append(dense := _train(data, layers, "dense", 1.0, choices))
            for share in shares:
                for method in choices.methods:
                    row = _train(data, layers, method, share, choices)
                    rows.append(row | {"dense_accuracy": dense["accuracy"], "dense_train_s": dense["train_s"]})
                    console.print(
                        f"{name}, {layers} layers, {method} {share:.0%}: {row['accuracy']:.4f} "
                        f"(dense {dense['accuracy']:.4f}), {row['train_s']:.1f} s (dense {dense['train_s']:.1f} s)",
                        highlight=False,
                    )
    settings = {"width": WIDTH, **asdict(choices), "quick": quick, "data": sources}
    rows = _merged(rows, settings, earlier or {}, console)
    ours = sorted((row for row in rows if row["method"] == "lsh"), key=lambda row: -row["active"])
    summary = {f"{row['data']}, {row['layers']} hidden": _against(row) for row in ours}  # the least active comes last
    return BenchResult(settings, rows, summary)


def _merged(
    rows: list[dict[str, Any]], settings: Mapping[str, Any], earlier: Mapping[str, Any], console: Console
) -> list[dict[str, Any]]:
    """The rows, and before them those of an earlier run that are of other networks, trained alike."""
    before = earlier.get("settings", {})
    differing = [key for key in TRAINED_BY if before.get(key) != settings[key]]
    if earlier.get("rows") and differing:
        console.print(f"the file's rows were trained with other {', '.join(differing)}: they are not kept")
        return rows
    mine = {tuple(row[key] for key in NETWORK) for row in rows}
    return [row for row in earlier.get("rows", []) if tuple(row[key] for key in NETWORK) not in mine] + rows


def _against(ours: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "active": ours["active"], "accuracy_delta": ours["accuracy"] - ours["dense_accuracy"],
        "macs_saved": 1 - ours["macs"] / ours["dense_macs"], "train_speedup": ours["dense_train_s"] / ours["train_s"],
    }  # fmt: skip


def _choices(quick: bool, options: Sequence[str]) -> tuple[Choices, list[int], list[float]]:
    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    if dotted:
        raise UsageError(f"--set {next(iter(dotted))}: there is nothing of this name to set")
    for key, known in (("sets", SETS), ("methods", METHODS)):
        unknown = set(getattr(choices, key)) - set(known)
        if unknown:
            raise UsageError(f"--set {key}: {', '.join(sorted(unknown))} is not one of {', '.join(known)}")
    try:
        depths, shares = [int(word) for word in choices.layers], [float(word) for word in choices.shares]
    except ValueError as error:
        raise UsageError(f"--set layers or shares: {error}; write numbers with commas between them") from None
    if (
        min(depths, default=0) < 1
        or not all(0 < share <= 1 for share in shares)
        or choices.epochs < 1
        or choices.batch < 1
    ):
        raise UsageError("--set layers, epochs and batch must be from 1 on, shares above 0 and at most 1")
    return choices, depths, sorted(shares)


def _load(name: str, data_root: Path | None, choices: Choices) -> ImageData:
    """A set by name; where Fashion-MNIST is not found, the slice of it that comes with the package."""
    from thrifty.core.errors import DataError
    from thrifty.data import load_images, make_convex, make_rectangles

    limits: dict[str, Any] = {"limit_train": choices.limit_train, "limit_test": choices.limit_test}
    makers: dict[str, Callable[..., ImageData]] = {"rectangles": make_rectangles, "convex": make_convex}
    if name in makers:
        given = {split: limits[f"limit_{split}"] for split in ("train", "test")}
        return makers[name](**{split: limit for split, limit in given.items() if limit is not None})
    try:
        return load_images(name, root=data_root, download=False, **limits)
    except DataError:
        if data_root is not None:
            raise  # whoever names a folder wants what is in it
        return load_images("fashion-mnist-slice", **limits)


def _train(data: ImageData, layers: int, method: str, share: float, choices: Choices) -> dict[str, Any]:
    import torch
    from torch import nn

    import thrifty
    from thrifty.lsh import LSH, SlowerThanDenseWarning

    torch.manual_seed(0)
    sizes = [data.train.images[0].numel()] + [WIDTH] * layers
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        parts += [nn.Linear(fan_in, fan_out), _choice(method, share)]
    model = nn.Sequential(*parts, nn.Linear(WIDTH, len(data.classes)))
    applied = None
    if method == "lsh":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanDenseWarning)
            names = tuple(str(2 * i) for i in range(layers))
            applied = thrifty.apply_(model, [LSH(layers=names, active=share * 0.95, batch=choices.batch, force=True)])
    optimizer = torch.optim.Adam(model.parameters(), lr=choices.lr)
    x, y = _flat(data.train.images), data.train.labels
    source = torch.Generator().manual_seed(1)
    start = time.perf_counter()
    steps = 0
    for _ in range(choices.epochs):
        for rows in torch.randperm(len(x), generator=source).split(choices.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            steps += len(rows)
    train_s = time.perf_counter() - start
    dense_macs = sum(a * b * (2 if i == 0 else 3) for i, (a, b) in enumerate(pairwise(sizes)))
    saves = {"dense": 1.0, "dropout": share, "adaptive": 1.0, "wta": 1.0, "lsh": share}[method]
    macs = dense_macs * saves
    if applied is not None:
        macs = sum(counters.macs for counters in applied.counters().values()) / steps
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in _flat(data.test.images).split(500)])
    accuracy = float((answers == data.test.labels).float().mean())
    return {"data": data.name, "layers": layers, "method": method, "active": share, "accuracy": accuracy, "macs": macs,
            "dense_macs": dense_macs, "train_s": train_s}  # fmt: skip


def _flat(images: Tensor) -> Tensor:
    return images.reshape(len(images), -1).float().div_(255)


def _choice(method: str, share: float) -> nn.Module:
    import torch
    from torch import nn

    class Adaptive(nn.Module):
        """ReLU, and a neuron kept by the sigmoid of its score."""

        def forward(self, z: Tensor) -> Tensor:
            keep = torch.sigmoid(z.detach())
            keep = (keep * share / keep.mean().clamp(min=1e-6)).clamp(max=1)
            if self.training:
                return torch.relu(z) * (torch.rand_like(z) < keep)
            return torch.relu(z) * keep

    class Winners(nn.Module):
        """ReLU of the largest scores of a row."""

        def forward(self, z: Tensor) -> Tensor:
            least = z.topk(max(1, int(share * z.shape[1])), dim=1).values[:, -1:]
            return torch.relu(z) * (z >= least)

    if method == "dropout":
        return nn.Sequential(nn.ReLU(), nn.Dropout(1 - share))
    return {"adaptive": Adaptive, "wta": Winners}.get(method, nn.ReLU)()
