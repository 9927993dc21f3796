"""The methods in a loop of your own: `python examples/own_loop.py --epochs 3`.

Trains CifarNet on the slice of Fashion-MNIST that comes with thrifty, and prints what every layer did.
"""

import argparse

import torch
from torch.nn.functional import cross_entropy

import thrifty
from thrifty.data import ImageBatches, load_images
from thrifty.models import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=None, help="so many of each split")
    arguments = parser.parse_args()
    data = load_images("fashion-mnist-slice", limit_train=arguments.images, limit_test=arguments.images)
    shared = {"mean": data.mean, "std": data.std, "seed": 0}
    torch.manual_seed(0)
    model = build("cifarnet", num_classes=10, in_channels=1, image_size=28).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    applied = thrifty.apply_(model, [thrifty.Reuse()], optimizer=optimizer)
    for epoch in range(arguments.epochs):
        model.train()
        for x, y in ImageBatches(data.train, 128, augment=data.augment, shuffle=True, epoch=epoch, **shared):
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            applied.step(loss)
        model.eval()
        with torch.no_grad():
            test = ImageBatches(data.test, 500, augment=None, shuffle=False, **shared)
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in test)
        print(f"epoch {epoch + 1}: {100 * right / len(data.test):.1f} % of {len(data.test)} test images")
    for name, counters in applied.counters().items():
        print(f"{name}: {counters.macs / counters.dense_macs:.0%} of the dense multiply-adds")
    thrifty.remove_(model)


if __name__ == "__main__":
    main()
