"""Next-item recommendation over tens of thousands of items: full, sampled, adaptive and hashed softmax.

Leave-one-out on Amazon reviews. The model is one for all arms: the history's item embeddings, weighted by recency,
through a small residual network, then a wide output layer. The full softmax trains with torch's fused Adam and dense
gradients; the adaptive one likewise; the others with LazyAdam and sparse gradients, embedding included. Arms take
turns by epochs' parts, on the same batches. `step_s` is the median training step; quality is HR@10 and nDCG@10 over
all items, on the test items, of the weights with the best validation nDCG@10, over a sample of users;
`seconds_to_target` are the training seconds until the validation nDCG@10 first reaches full softmax's best.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from thrifty.data import NextItems

SETS = ("beauty-54k", "games-24k", "sports-18k")
HISTORY, FEATURES, BATCH = 20, 64, 256
LEARNING_RATE = 2e-3
ARMS = ("full", "sampled", "adaptive", "lsh")


@benchmark("lsh-next-item", "next-item recommendation over 18,000 to 54,000 items: full, sampled, adaptive, hashed")
def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
    """Train every arm for the same epochs on every set; quick trains a part of an epoch on one set."""
    from thrifty.data import load_next_items

    names = SETS[:1] if quick else SETS
    epochs, looks, users = (0.04, 2, 1000) if quick else (6.0, 24, 10_000)
    rows, summary = [], {}
    for name in names:
        data = load_next_items(name, root=data_root, download=False)
        console.print(f"{name}: {data.count - 1:,} items, {len(data.offsets) - 1:,} users")
        arms = _compare(data, epochs, looks, users, console)
        rows += [{"data": name, **row} for row in arms.values()]
        full, ours = arms["full"], arms["lsh"]
        target = ours["seconds_to_target"]
        summary[name] = {
            "step_speedup": full["step_s"] / ours["step_s"],
            "quality_ratio": _ratio(ours["ndcg10"], full["ndcg10"]),
            "hr_ratio": _ratio(ours["hr10"], full["hr10"]),
            "time_to_target_speedup": full["seconds_to_target"] / target if target else None,
        }
    settings = {
        "history": HISTORY, "features": FEATURES, "batch": BATCH, "epochs": epochs, "users_asked": users,
        "quick": quick, "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    columns = ("data", "method", "step_s", "seconds_to_target", "hr10", "ndcg10", "best_valid_ndcg10", "train_s")
    return BenchResult(settings, rows, summary, columns)


def _ratio(mine: float, theirs: float) -> float | None:
    return mine / theirs if theirs else None


def _compare(data: NextItems, epochs: float, looks: int, users: int, console: Console) -> dict[str, dict[str, Any]]:
    import torch

    x, y = data.training(HISTORY)
    # The same users, drawn once, for every look: all of them would take longer than the training.
    some = torch.randperm(len(data.offsets) - 1, generator=torch.Generator().manual_seed(2))[:users]
    valid_pairs, test_pairs = ([t[some] for t in data.held_out(split, HISTORY)] for split in ("valid", "test"))
    steps = max(looks, int(epochs * len(x) / BATCH))
    arms = {}
    for name in ARMS:
        torch.manual_seed(0)  # one start for all
        arms[name] = _Arm(name, data.count)
    order = torch.Generator().manual_seed(1)
    rows_left: list[Tensor] = []
    for look in range(looks):
        batches = []
        for _ in range(steps * (look + 1) // looks - steps * look // looks):
            if not rows_left:
                rows_left = list(torch.randperm(len(x), generator=order).split(BATCH))
            batches.append(rows_left.pop())
        for name, arm in arms.items():
            for rows in batches:
                arm.train(x[rows], y[rows])
            valid = arm.quality(*valid_pairs)
            arm.note(valid, arm.quality(*test_pairs))
            console.print(f"{name}: {sum(arm.seconds):.1f} s, validation HR@10 {valid[0]:.4f} nDCG@10 {valid[1]:.4f}")
    target = max(valid[1] for _, valid, _ in arms["full"].history)
    return {name: arm.row(target) for name, arm in arms.items()}


class _Arm:
    def __init__(self, name: str, items: int) -> None:
        import torch
        from torch import nn

        from thrifty.lsh import LazyAdam, LSHSoftmaxLoss, SampledSoftmaxLoss
        from thrifty.lsh.head import HashedHead

        self.name, self.items = name, items
        self.seconds: list[float] = []
        self.history: list[tuple[float, tuple[float, float], tuple[float, float]]] = []
        lazy = name in ("sampled", "lsh")
        self.encoder = _encoder(items, sparse=lazy)
        self.head: nn.Module
        if name == "lsh":
            self.head = LSHSoftmaxLoss(FEATURES, items, active=512, tail=1024)
        elif name == "sampled":
            self.head = SampledSoftmaxLoss(FEATURES, items, samples=2048)
        elif name == "adaptive":
            # clusters by id: these sets number their items by first appearance, frequent ones first
            self.head = nn.AdaptiveLogSoftmaxWithLoss(FEATURES, items, [items // 20, items // 4], div_value=2.0)
        else:
            self.head = LSHSoftmaxLoss(FEATURES, items, when="dense", sparse=False)
        if isinstance(self.head, HashedHead):
            nn.init.normal_(self.head.weight, std=0.05)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        if lazy:
            self.optimizer: Any = LazyAdam(parameters, lr=LEARNING_RATE)
            self.optimizer.watch(nn.ModuleList([self.encoder, self.head]))
        else:
            self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def train(self, x: Tensor, y: Tensor) -> None:
        self.head.train()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        hidden = self.encoder(x)
        loss = self.head(hidden, y).loss if self.name == "adaptive" else self.head(hidden, y)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)

    def quality(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """HR@10 and nDCG@10 of the held-out item among all items."""
        import torch

        if self.name in ("sampled", "lsh"):
            self.optimizer.flush()
        self.head.eval()
        hits = gain = 0.0
        with torch.no_grad():
            for rows in torch.arange(len(x)).split(1024):
                hidden = self.encoder(x[rows])
                scores = self.head.log_prob(hidden) if self.name == "adaptive" else self.head.scores(hidden)  # type: ignore[operator]
                scores[:, 0] = -torch.inf
                place = (scores > scores.gather(1, y[rows].unsqueeze(1))).sum(1)
                found = place < 10
                hits += float(found.sum())
                gain += float((found / (place + 2.0).log2()).sum())
        return hits / len(x), gain / len(x)

    def note(self, valid: tuple[float, float], test: tuple[float, float]) -> None:
        self.history.append((sum(self.seconds), valid, test))

    def row(self, target: float) -> dict[str, Any]:
        best = max(self.history, key=lambda entry: entry[1][1])
        reached = next((spent for spent, valid, _ in self.history if valid[1] >= target), None)
        return {
            "method": self.name, "step_s": statistics.median(self.seconds), "seconds_to_target": reached,
            "hr10": best[2][0], "ndcg10": best[2][1], "best_valid_ndcg10": best[1][1], "train_s": sum(self.seconds),
            "curve": [{"train_s": spent, "valid_hr10": valid[0], "valid_ndcg10": valid[1]}
                      for spent, valid, _ in self.history],
        }  # fmt: skip


def _encoder(items: int, sparse: bool) -> nn.Module:
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """Histories (R, H), latest first and 0 for none -> (R, D)."""

        def __init__(self) -> None:
            super().__init__()
            self.items = nn.EmbeddingBag(items, FEATURES, mode="sum", sparse=sparse, padding_idx=0)
            self.recency = nn.Parameter(-0.3 * torch.arange(HISTORY).float())
            self.mix = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES))
            nn.init.normal_(self.items.weight, std=0.1)

        def forward(self, x: Tensor) -> Tensor:
            there = x > 0
            weights = torch.softmax(self.recency.expand(x.shape).masked_fill(~there, -1e9), 1) * there
            bag = self.items(x, per_sample_weights=weights)
            out: Tensor = bag + self.mix(bag)
            return out

    return Encoder()
