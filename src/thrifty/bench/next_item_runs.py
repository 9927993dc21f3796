"""A training of `lsh-next-item` in a folder of its own: it is written down at every look and goes on where it was left.

A run is one arm at one learning rate from one seed. Its folder bears a digest of what it depends on: other settings are
other runs, and what is over is not trained again. It is over after its epochs, or when validation has found nothing
better for `patience` epochs.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thrifty.bench.next_item_arms import OWN, Order, Recipe, Trained
from thrifty.core.atomic import write_bytes, write_json
from thrifty.core.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from thrifty.data import NextItems


RECORD, STATE = "run.json", "state.pt"


@dataclass(frozen=True)
class Length:
    """How long runs train, and how often validation is asked.

    Attributes:
        epochs: at most.
        patience: epochs without anything better in validation after which a run is over.
        looks: in an epoch.
        users: asked at a look, drawn once; all of them where there are no more.
    """

    epochs: float = 8.0
    patience: float = 1.0
    looks: float = 4.0
    users: int = 8000


class Run:
    """One training.

    Attributes:
        curve: a point a look: `epochs, steps, train_s, valid_hr10, valid_ndcg10`.
        quality: `hr10, ndcg10` of all users' test items under the best weights, once `judge` was called.
    """

    def __init__(self, data: NextItems, arm: str, recipe: Recipe, length: Length, parent: Path) -> None:
        self.data, self.arm, self.recipe, self.length = data, arm, recipe, length
        depends = {key: value for key, value in asdict(recipe).items() if arm in OWN.get(key, (arm,))}
        told = json.dumps([data.name, data.count, len(data.items), depends, length.looks, length.users], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        self.folder = parent / Path(data.name).stem / f"{arm}-lr{recipe.lr:g}-seed{recipe.seed}-{digest}"
        self.curve: list[dict[str, float]] = []
        self.quality: dict[str, float] = {}
        if (self.folder / RECORD).is_file():
            self._read()

    @property
    def best(self) -> dict[str, float]:
        """The look that was best in validation; empty before the first."""
        return max(self.curve, key=lambda point: point["valid_ndcg10"], default={})

    @property
    def over(self) -> bool:
        """Whether nothing is left to train."""
        if not self.curve:
            return False
        done = self.curve[-1]["epochs"]
        return done >= self.length.epochs - 1e-9 or done - self.best["epochs"] >= self.length.patience - 1e-9

    def reached(self, target: float) -> int | None:
        """Steps after which validation nDCG@10 was `target` for the first time; None where it never was."""
        return next((int(point["steps"]) for point in self.curve if point["valid_ndcg10"] >= target), None)

    def start(self) -> tuple[Trained, Order, dict[str, Tensor]]:
        """The arm and the order of its rows as they were at the last look, and its best weights."""
        order = Order(self.data, self.recipe)
        trained = Trained(self.arm, order.counts, self.recipe)
        if not self.curve:
            return trained, order, {}
        try:
            state = torch.load(self.folder / STATE, weights_only=True)
            trained.load_state(state["trained"])
            order.load_state(state["order"])
            self.curve = state["curve"]  # it is a look ahead of the record where a kill came between the two
        except Exception as error:  # a damaged file raises errors of its own
            raise DataError(f"{self.folder}: cannot go on from it ({error}); delete this folder") from error
        return trained, order, state["best"]

    def go_on(self, console: Console, until: float = float("inf")) -> None:
        """Train, and write down every look, until it is over or the monotonic clock shows `until` at a look."""
        if self.over or time.monotonic() >= until:
            return
        trained, order, best = self.start()
        some = torch.randperm(len(self.data.offsets) - 1, generator=torch.Generator().manual_seed(2))
        x, y = (part[some[: self.length.users]] for part in self.data.held_out("valid", self.recipe.history))
        while not self.over and time.monotonic() < until:
            epochs = min((len(self.curve) + 1) / self.length.looks, self.length.epochs)
            steps = max(1, round(epochs * order.steps))
            while len(trained.seconds) < steps:
                trained.train(*order.next())
            hits, gain = trained.quality(x, y)
            self.curve.append({"epochs": epochs, "steps": steps, "train_s": trained.spent_s, "valid_hr10": hits,
                               "valid_ndcg10": gain})  # fmt: skip
            if self.best is self.curve[-1]:
                best = copy.deepcopy(trained.model.state_dict())
            self._write({"trained": trained.state(), "order": order.state(), "best": best, "curve": self.curve})
            console.print(
                f"{self.arm}, lr {self.recipe.lr:g}, seed {self.recipe.seed}: {epochs:.2f} epochs, "
                f"{trained.spent_s:.1f} s, validation HR@10 {hits:.4f} nDCG@10 {gain:.4f}",
                highlight=False,
            )

    def judge(self) -> None:
        """Rank all users' test items under the best weights, once."""
        if self.quality:
            return
        trained, _, best = self.start()
        trained.load_weights(best)
        hits, gain = trained.quality(*self.data.held_out("test", self.recipe.history))
        self.quality = {"hr10": hits, "ndcg10": gain}
        self._record()

    def _write(self, state: dict[str, Any]) -> None:
        # The state goes first: a record without it could not go on.
        packed = io.BytesIO()
        torch.save(state, packed)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / STATE, packed.getvalue())
        self.quality = {}
        self._record()

    def _record(self) -> None:
        write_json(self.folder / RECORD, {"arm": self.arm, "recipe": asdict(self.recipe), "curve": self.curve,
                                          "quality": self.quality})  # fmt: skip

    def _read(self) -> None:
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            self.curve, self.quality = list(record["curve"]), dict(record["quality"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder / RECORD}: cannot be read ({error}); delete this folder") from error
