"""The arms of `lsh-next-item`: one recommender, whose wide output layer trains with another loss in each arm."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thrifty.lsh import Hashing, LazyAdam, LSHSoftmaxLoss, SampledSoftmaxLoss
from thrifty.lsh.head import HashedHead

if TYPE_CHECKING:
    from thrifty.data import NextItems

ARMS = ("full", "sampled", "adaptive", "lsh")
LAZY = ("sampled", "lsh")
# settings that some arms alone have
OWN = {"active": ("lsh",), "tail": ("lsh",), "samples": ("sampled",), "power": LAZY}
ROWS = 1024  # users ranked at once


@dataclass(frozen=True)
class Recipe:
    """What all arms of a comparison share, and the sizes of the hashed and the sampled one.

    Attributes:
        history: items that a user's next one is predicted from.
        features: of an item and of the hidden layer.
        batch: rows a step.
        lr: of Adam.
        active, tail: of `LSHSoftmaxLoss`.
        samples: of `SampledSoftmaxLoss`.
        power: of an item's frequency in training (and one more), which the tail and the samples are drawn by; 0 for
            uniform.
        seed: of the start and of the order of the rows.
    """

    history: int = 20
    features: int = 64
    batch: int = 256
    lr: float = 2e-3
    active: int = 512
    tail: int = 4096
    samples: int = 4096
    power: float = 0.0
    seed: int = 0


class Encoder(nn.Module):
    """Histories (R, H), latest first and 0 for none -> (R, D): items weighted by recency, and a residual network."""

    def __init__(self, items: int, recipe: Recipe, sparse: bool) -> None:
        super().__init__()
        features = recipe.features
        self.items = nn.EmbeddingBag(items, features, mode="sum", sparse=sparse, padding_idx=0)
        self.recency = nn.Parameter(-0.3 * torch.arange(recipe.history).float())
        self.mix = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
        nn.init.normal_(self.items.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden features of every row."""
        there = x > 0
        weights = torch.softmax(self.recency.expand(x.shape).masked_fill(~there, -1e9), 1) * there
        bag = self.items(x, per_sample_weights=weights)
        out: Tensor = bag + self.mix(bag)
        return out


class Trained:
    """One arm: its network and optimizer, the seconds of its steps, and what it reached when.

    The full softmax trains with torch's fused Adam on dense gradients, the adaptive one likewise; the others with
    LazyAdam on rows, those of the item embeddings included. `counts` (items,) says how often each is to be predicted.
    """

    def __init__(self, name: str, counts: Tensor, recipe: Recipe) -> None:
        items = len(counts)
        torch.manual_seed(recipe.seed)  # one start for all
        self.name, self.recipe = name, recipe
        self.lazy = name in LAZY
        self.encoder = Encoder(items, recipe, sparse=self.lazy)
        self.head = _head(name, counts, recipe)
        self.model = nn.ModuleList([self.encoder, self.head])
        if self.lazy:
            lazy = LazyAdam(self.model.parameters(), lr=recipe.lr)
            lazy.watch(self.model)
            self.optimizer: Any = lazy
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr, fused=True)
        self.seconds: list[float] = []
        self.spent_s = 0.0

    def train(self, x: Tensor, y: Tensor) -> float:
        """One training step; returns its seconds."""
        self.model.train()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        hidden = self.encoder(x)
        loss = self.head(hidden, y).loss if self.name == "adaptive" else self.head(hidden, y)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.spent_s += self.seconds[-1]
        return self.seconds[-1]

    def state(self) -> dict[str, Any]:
        """What goes on bit for bit: weights, optimizer, hash tables and seconds."""
        tables = self.head.index_state() if isinstance(self.head, HashedHead) else None
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "tables": tables,
                "seconds": self.seconds, "spent_s": self.spent_s}  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over such a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.head, HashedHead):
            self.head.load_index_state(state["tables"])
        self.seconds, self.spent_s = list(state["seconds"]), float(state["spent_s"])

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take these weights to be asked for `quality`; it cannot go on training from them."""
        self.model.load_state_dict(weights)
        self.optimizer.state.clear()  # its rows are those of the last step

    def quality(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """HR@10 and nDCG@10 of the held-out item among all items."""
        if self.lazy:
            self.optimizer.flush()
        self.model.eval()
        hits = gain = 0.0
        with torch.no_grad():
            for rows in torch.arange(len(x)).split(ROWS):
                hidden = self.encoder(x[rows])
                scores = self.head.log_prob(hidden) if self.name == "adaptive" else self.head.scores(hidden)  # type: ignore[operator]
                scores[:, 0] = -torch.inf
                place = (scores > scores.gather(1, y[rows].unsqueeze(1))).sum(1)
                found = place < 10
                hits += float(found.sum())
                gain += float((found / (place + 2.0).log2()).sum())
        return hits / len(x), gain / len(x)


def _head(name: str, counts: Tensor, recipe: Recipe) -> nn.Module:
    items, features = len(counts), recipe.features
    drawn_by: Tensor | str = (counts + 1).float() ** recipe.power if recipe.power else "uniform"
    if name == "adaptive":
        # Clusters by id: these sets number their items by first appearance, frequent ones first.
        return nn.AdaptiveLogSoftmaxWithLoss(features, items, [items // 20, items // 4], div_value=2.0)
    head: HashedHead
    if name == "lsh":
        hashing = Hashing(seed=recipe.seed)
        head = LSHSoftmaxLoss(features, items, active=recipe.active, tail=recipe.tail,
                              distribution=drawn_by, hashing=hashing)  # fmt: skip
    elif name == "sampled":
        head = SampledSoftmaxLoss(features, items, samples=recipe.samples, distribution=drawn_by,
                                  hashing=Hashing(seed=recipe.seed))  # fmt: skip
    else:
        head = LSHSoftmaxLoss(features, items, when="dense", sparse=False)
    nn.init.normal_(head.weight, std=0.05)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


class Order:
    """The rows of a training set in a random order, batch by batch, epoch after epoch; the same for every arm."""

    def __init__(self, data: NextItems, recipe: Recipe) -> None:
        self.x, self.y = data.training(recipe.history)
        self.counts = torch.bincount(self.y, minlength=data.count)
        self.batch = recipe.batch
        self.source = torch.Generator().manual_seed(recipe.seed + 1)
        self.left: list[Tensor] = []

    def state(self) -> dict[str, Any]:
        """Where it is."""
        return {"source": self.source.get_state(), "left": list(self.left)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.source.set_state(state["source"])
        self.left = list(state["left"])

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.x) // self.batch)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch."""
        if not self.left:
            self.left = list(torch.randperm(len(self.x), generator=self.source).split(self.batch))
        rows = self.left.pop()
        return self.x[rows], self.y[rows]
