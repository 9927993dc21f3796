"""A recommender of next items: `python examples/next_item.py sports-18k --epochs 3`, or a path to an npz of your own.

Trains item embeddings and a wide output layer by hashing, and prints HR@10 on the validation items after each epoch.
"""

import argparse

import torch
from torch import nn

from thrifty.data import load_next_items
from thrifty.lsh import LazyAdam, LSHSoftmaxLoss

HISTORY, FEATURES, BATCH = 20, 64, 256


class Recommender(nn.Module):
    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(items, FEATURES, mode="mean", sparse=True, padding_idx=0)
        self.mix = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES))
        self.head = LSHSoftmaxLoss(FEATURES, items, active=512, tail=1024)
        nn.init.normal_(self.items.weight, std=0.1)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        bag = self.items(x)
        return bag + self.mix(bag)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(x), y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a named set or an npz with items and offsets")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    data = load_next_items(arguments.data, root=arguments.data_root)
    torch.manual_seed(0)
    model = Recommender(data.count)
    optimizer = LazyAdam(model.parameters(), lr=2e-3)
    optimizer.watch(model)
    x, y = data.training(HISTORY)
    asked, wanted = (t[:4000] for t in data.held_out("valid", HISTORY))
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            model(x[rows], y[rows]).backward()
            optimizer.step()
        model.eval()
        _, best = model.head.topk(model.hidden(asked), 10, exact=True)
        hits = (best == wanted.unsqueeze(1)).any(1).float().mean()
        print(f"epoch {epoch}: HR@10 {100 * hits.item():.2f} % of {len(asked)} users, among {data.count - 1} items")


if __name__ == "__main__":
    main()
