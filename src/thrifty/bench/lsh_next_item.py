"""Next-item recommendation over tens of thousands of items: full, sampled, adaptive and hashed softmax.

Leave-one-out on Amazon reviews; one model for all arms (`next_item_arms`), the same batches in the same order. Every
arm trains at every rate of the list from seed 0; the rate whose validation nDCG@10 (over all items, of a sample of
users) was best is its own, and further seeds train at that. Trainings are kept in folders and go on where they were
left (`next_item_runs`), so that a machine may be given in pieces: `limit_s`.

`hr10` and `ndcg10` are of all users' test items under the weights that were best in validation. `step_s` is the median
step in a race of all arms at the end of the run (`next_item_clock`); `seconds_to_target` is the mean step of that race
times the steps until validation nDCG@10 first reached full softmax's best of the same seed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.bench.next_item_runs import Run
    from thrifty.data import NextItems

ALL = ("full", "sampled", "adaptive", "lsh")
QUICK: dict[str, Any] = {
    "sets": ("beauty-54k",), "rates": ("0.01",), "epochs": 0.04, "looks": 50, "users": 1000, "turns": 8,
    "out": "runs/bench/lsh-next-item-quick",
}  # fmt: skip
COLUMNS = ("data", "method", "lr", "seed", "step_s", "seconds_to_target", "hr10", "ndcg10", "valid_ndcg10", "epochs")


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose; `lr.ARM` is the one rate of an arm.

    Attributes:
        sets: names of next-item sets.
        arms: of full, sampled, adaptive and lsh.
        rates: of Adam, tried for every arm.
        epochs, patience, looks, users: see `next_item_runs.Length`.
        seeds: how many, from 0.
        history, features, batch, active, tail, samples, power: see `next_item_arms.Recipe`.
        turns: of the race that times the steps: so many of full softmax, more of the others.
        out: folder in which the trainings are kept.
        limit_s: seconds after which nothing more is trained; the same command goes on. None for no limit.
    """

    sets: tuple[str, ...] = ("beauty-54k", "games-24k", "sports-18k")
    arms: tuple[str, ...] = ALL
    rates: tuple[str, ...] = ("0.005", "0.01")
    epochs: float = 8.0
    patience: float = 1.0
    looks: float = 4.0
    users: int = 8000
    seeds: int = 1
    history: int = 20
    features: int = 64
    batch: int = 256
    active: int = 512
    tail: int = 4096
    samples: int = 4096
    power: float = 0.0
    turns: int = 48
    out: str = "runs/bench/lsh-next-item"
    limit_s: float | None = None


@benchmark("lsh-next-item", "next-item recommendation over 18,000 to 54,000 items: full, sampled, adaptive, hashed")
def run(quick: bool, console: Console, data_root: Path | None = None, options: Sequence[str] = ()) -> BenchResult:
    """Train what is left to train on every set, and compare; quick trains a part of an epoch on one set."""
    from thrifty.data import load_next_items

    choices, rates = _choices(quick, options)
    until = time.monotonic() + (choices.limit_s or float("inf"))
    rows: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    summary = {}
    for name in choices.sets:
        data = load_next_items(name, root=data_root, download=False)
        console.print(f"{name}: {data.count - 1:,} items, {len(data.offsets) - 1:,} users")
        of_set, runs = compare(data, choices, rates, console, until)
        rows += [{"data": name, **row} for row in of_set]
        tried += [{"data": name, "method": one.arm, "lr": one.recipe.lr, "seed": one.recipe.seed, "over": one.over,
                   **one.best} for one in runs]  # fmt: skip
        summary[name] = _summary(of_set)
    settings = {**asdict(choices), "rates": rates, "quick": quick, "tried": tried}
    del settings["out"], settings["limit_s"]  # of this machine
    return BenchResult(settings, rows, summary, COLUMNS)


def _choices(quick: bool, options: Sequence[str]) -> tuple[Choices, dict[str, list[float]]]:
    """The choices, and the rates of every arm."""
    choices, dotted = read_options(Choices, options, QUICK if quick else None)
    unknown = set(choices.arms) - set(ALL)
    if unknown:
        raise UsageError(f"--set arms: no arm is called {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    try:
        rates = {arm: sorted({float(word) for word in choices.rates}) for arm in choices.arms}
    except ValueError as error:
        raise UsageError(f"--set rates: {error}; write numbers with commas between them") from None
    for key, value in dotted.items():
        what, _, arm = key.partition(".")
        if what != "lr" or arm not in choices.arms or not isinstance(value, int | float):
            raise UsageError(f"--set {key}={value}: write lr.ARM=NUMBER, ARM one of {', '.join(choices.arms)}")
        rates[arm] = [float(value)]
    if not choices.arms or not all(of and min(of) > 0 for of in rates.values()):
        raise UsageError("--set arms and rates must name one each, and rates must be above 0")
    least = ("epochs", "patience", "looks", "users", "seeds", "turns", "limit_s")
    if any(getattr(choices, key) is not None and getattr(choices, key) <= 0 for key in least):
        raise UsageError(f"--set {', '.join(least)} must be above 0")
    return choices, rates


def compare(
    data: NextItems, choices: Choices, rates: Mapping[str, Sequence[float]], console: Console, until: float
) -> tuple[list[dict[str, Any]], list[Run]]:
    """The arms' rows on one set, of the trainings that are over, and all trainings."""
    from thrifty.bench.next_item_arms import Recipe
    from thrifty.bench.next_item_clock import clock
    from thrifty.bench.next_item_runs import Length, Run

    given = asdict(choices)
    shared = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    length = Length(**{field.name: given[field.name] for field in fields(Length)})

    def trained(arm: str, lr: float, seed: int) -> Run:
        one = Run(data, arm, Recipe(**shared, lr=lr, seed=seed), length, Path(choices.out))
        one.go_on(console, until)
        return one

    runs = [trained(arm, lr, 0) for arm in choices.arms for lr in rates[arm]]
    of_arm = {arm: [one for one in runs if one.arm == arm] for arm in choices.arms}
    own = {arm: max(of, key=lambda one: one.best["valid_ndcg10"]) for arm, of in of_arm.items()
           if all(one.over for one in of)}  # fmt: skip
    more = [trained(arm, one.recipe.lr, seed) for arm, one in own.items() for seed in range(1, choices.seeds)]
    if len(own) < len(of_arm) or not all(one.over for one in more):
        console.print("the limit of time came first: the same command goes on from here")
    seconds = clock(own, choices.turns) if own else {}
    chosen = [one for one in (*own.values(), *more) if one.over]
    targets = {one.recipe.seed: one.best["valid_ndcg10"] for one in chosen if one.arm == "full"}
    return [_row(one, seconds[one.arm], targets.get(one.recipe.seed)) for one in chosen], [*runs, *more]


def _row(one: Run, seconds: Mapping[str, float], target: float | None) -> dict[str, Any]:
    one.judge()
    steps = None if target is None else one.reached(target)
    last = one.curve[-1]
    return {
        "method": one.arm, "lr": one.recipe.lr, "seed": one.recipe.seed, **seconds, **one.quality,
        "seconds_to_target": None if steps is None else steps * seconds["step_mean_s"], "steps_to_target": steps,
        "valid_hr10": one.best["valid_hr10"], "valid_ndcg10": one.best["valid_ndcg10"],
        "epochs": one.best["epochs"], "train_s": last["train_s"], "train_epochs": last["epochs"], "curve": one.curve,
    }  # fmt: skip


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ours against full softmax, as means over the seeds that both have; empty where one of them was left out."""
    arms = {name: {row["seed"]: row for row in rows if row["method"] == name} for name in ("full", "lsh")}
    seeds = arms["full"].keys() & arms["lsh"].keys()
    if not seeds:
        return {}
    full, ours = ({key: statistics.fmean(of[seed][key] for seed in seeds) for key in ("step_s", "hr10", "ndcg10")}
                  for of in arms.values())  # fmt: skip
    spent = [[of[seed]["seconds_to_target"] for seed in seeds] for of in arms.values()]
    return {
        "seeds": len(seeds),
        "step_speedup": full["step_s"] / ours["step_s"],
        "quality_ratio": _ratio(ours["ndcg10"], full["ndcg10"]),
        "hr_ratio": _ratio(ours["hr10"], full["hr10"]),
        "time_to_target_speedup": None if None in spent[1] else sum(spent[0]) / sum(spent[1]),
    }


def _ratio(mine: float, theirs: float) -> float | None:
    return mine / theirs if theirs else None
