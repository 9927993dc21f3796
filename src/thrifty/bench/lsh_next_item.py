"""Next-item recommendation over tens of thousands of items: full, sampled, adaptive and hashed softmax.

Leave-one-out on Amazon reviews. The model is one for all arms (`next_item_arms`); arms take turns by epochs' parts, on
the same batches in the same order, until their epochs are over: `epochs`, or `epochs.ARM` for one of them. `step_s` is
the median training step. Validation nDCG@10 over all items, of a sample of users, is looked at between the turns, off
the clock; quality is HR@10 and nDCG@10 of all users' test items under the weights that were best in validation;
`seconds_to_target` are the training seconds until the validation nDCG@10 first reaches full softmax's best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.data import NextItems

ALL = ("full", "sampled", "adaptive", "lsh")
# Hashing at 0.002 is far behind 0.01 after three epochs. The full softmax is started lower, as each of its steps moves
# every class; what is best for it has to be tried with lr.full.
RATES = {"full": 5e-3, "sampled": 1e-2, "adaptive": 5e-3, "lsh": 1e-2}
Own = dict[str, dict[str, float]]
QUICK: dict[str, Any] = {"sets": ("beauty-54k",), "epochs": 0.04, "looks": 50, "users": 1000}


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose; `epochs.ARM` are those of one arm, `lr.ARM` its learning rate.

    Attributes:
        sets: names of next-item sets.
        arms: of full, sampled, adaptive and lsh.
        epochs: of every arm.
        looks: at the validation items in an epoch.
        users: asked at each look, drawn once.
        seeds: how many, from 0.
        history, features, batch, active, tail, samples: see `next_item_arms.Recipe`.
    """

    sets: tuple[str, ...] = ("beauty-54k", "games-24k", "sports-18k")
    arms: tuple[str, ...] = ALL
    epochs: float = 3.0
    looks: float = 4.0
    users: int = 8000
    seeds: int = 1
    history: int = 20
    features: int = 64
    batch: int = 256
    active: int = 512
    tail: int = 1024
    samples: int = 2048


@benchmark("lsh-next-item", "next-item recommendation over 18,000 to 54,000 items: full, sampled, adaptive, hashed")
def run(quick: bool, console: Console, data_root: Path | None = None, options: Sequence[str] = ()) -> BenchResult:
    """Train every arm on every set; quick trains a part of an epoch on one set."""
    from thrifty.data import load_next_items

    choices, own = _choices(quick, options)
    rows: list[dict[str, Any]] = []
    summary = {}
    for name in choices.sets:
        data = load_next_items(name, root=data_root, download=False)
        console.print(f"{name}: {data.count - 1:,} items, {len(data.offsets) - 1:,} users")
        of_set = []
        for seed in range(choices.seeds):
            of_set += compare(data, choices, own, seed, console)
        rows += [{"data": name, **row} for row in of_set]
        summary[name] = _summary(of_set)
    columns = (
        "data",
        "method",
        "seed",
        "step_s",
        "seconds_to_target",
        "hr10",
        "ndcg10",
        "best_valid_ndcg10",
        "train_s",
    )
    return BenchResult({**asdict(choices), "own": own, "quick": quick}, rows, summary, columns)


def _choices(quick: bool, options: Sequence[str]) -> tuple[Choices, Own]:
    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    unknown = set(choices.arms) - set(ALL)
    if unknown:
        raise UsageError(f"--set arms: no arm is called {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    own: Own = {"epochs": {}, "lr": dict(RATES)}
    for key, value in dotted.items():
        what, _, arm = key.partition(".")
        if what not in own or arm not in choices.arms or not isinstance(value, int | float) or value <= 0:
            raise UsageError(
                f"--set {key}={value}: write epochs.ARM=NUMBER or lr.ARM=NUMBER, ARM one of {', '.join(choices.arms)}"
            )
        own[what][arm] = float(value)
    if not choices.arms or choices.epochs <= 0 or choices.looks <= 0 or choices.users < 1 or choices.seeds < 1:
        raise UsageError("--set arms must name one, and epochs, looks, users and seeds must be above 0")
    return choices, own


def compare(data: NextItems, choices: Choices, own: Own, seed: int, console: Console) -> list[dict[str, Any]]:
    """The arms' rows on one set, from one seed."""
    import torch

    from thrifty.bench.next_item_arms import Order, Recipe, Trained

    given = asdict(choices)
    shared = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    recipes = {name: Recipe(**shared, lr=own["lr"][name], seed=seed) for name in choices.arms}
    recipe = next(iter(recipes.values()))
    held_out = {split: data.held_out(split, recipe.history) for split in ("valid", "test")}
    # The same users, drawn once, for every look: all of them would take longer than the training.
    some = torch.randperm(len(data.offsets) - 1, generator=torch.Generator().manual_seed(2))[: choices.users]
    asked = held_out["valid"][0][some], held_out["valid"][1][some]
    arms = {name: (Trained(name, data.count, mine), Order(data, mine)) for name, mine in recipes.items()}
    ends = {name: own["epochs"].get(name, choices.epochs) for name in arms}
    for turn in range(math.ceil(max(ends.values()) * choices.looks)):
        for name, (arm, order) in arms.items():
            if turn / choices.looks >= ends[name]:
                continue
            until = max(1, round(min((turn + 1) / choices.looks, ends[name]) * order.steps))
            while len(arm.seconds) < until:
                arm.train(*order.next())
            epochs = until / order.steps
            hits, gain = arm.look(epochs, asked)
            console.print(
                f"{name}: {epochs:.2f} epochs, {arm.spent_s:.1f} s, validation HR@10 {hits:.4f} nDCG@10 {gain:.4f}",
                highlight=False,
            )
    best = max((ndcg for *_, ndcg in arms["full"][0].curve), default=0.0) if "full" in arms else float("inf")
    return [{"seed": seed, **arm.row(best, held_out)} for arm, _ in arms.values()]


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ours against full softmax, as means over the seeds; empty where one of them was left out."""
    arms = {name: [row for row in rows if row["method"] == name] for name in ("full", "lsh")}
    if not all(arms.values()):
        return {}
    full, ours = ({key: statistics.fmean(row[key] for row in of) for key in ("step_s", "hr10", "ndcg10")}
                  for of in arms.values())  # fmt: skip
    spent = [[row["seconds_to_target"] for row in of] for of in arms.values()]
    reached = None not in spent[1]
    return {
        "step_speedup": full["step_s"] / ours["step_s"],
        "quality_ratio": _ratio(ours["ndcg10"], full["ndcg10"]),
        "hr_ratio": _ratio(ours["hr10"], full["hr10"]),
        "time_to_target_speedup": sum(spent[0]) / sum(spent[1]) if reached else None,
    }


def _ratio(mine: float, theirs: float) -> float | None:
    return mine / theirs if theirs else None
