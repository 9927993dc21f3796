"""The methods in a loop under accelerate: `accelerate launch examples/with_accelerate.py`.

Needs pip install "thrifty[accelerate]". Trains CifarNet on the slice of Fashion-MNIST that comes with thrifty, on one
process or several.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import thrifty
from thrifty.data import ImageSplit, load_images
from thrifty.integrations.accelerate import apply_with
from thrifty.models import build


def loader(split: ImageSplit, mean: torch.Tensor, std: torch.Tensor, **settings: object) -> DataLoader:
    pixels = (split.images.permute(0, 3, 1, 2) / 255 - mean[:, None, None]) / std[:, None, None]
    return DataLoader(TensorDataset(pixels, split.labels), **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=None, help="so many of each split")
    arguments = parser.parse_args()
    data = load_images("fashion-mnist-slice", limit_train=arguments.images, limit_test=arguments.images)
    accelerator = Accelerator(cpu=True)
    set_seed(0)
    model = build("cifarnet", num_classes=10, in_channels=1, image_size=28)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    methods = apply_with(accelerator, model, [thrifty.Reuse()], optimizer=optimizer)
    train = loader(data.train, data.mean, data.std, batch_size=128, shuffle=True, drop_last=True)
    test = loader(data.test, data.mean, data.std, batch_size=500)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
    for epoch in range(arguments.epochs):
        model.train()
        for x, y in train:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            methods.step(loss)
        model.eval()
        with torch.no_grad():
            right = torch.cat([accelerator.gather_for_metrics(model(x).argmax(1) == y) for x, y in test])
        accelerator.print(f"epoch {epoch + 1}: {100 * right.float().mean():.1f} % of {len(right)} test images")
    for name, counters in methods.applied.counters().items():
        accelerator.print(f"{name}: {counters.macs / counters.dense_macs:.0%} of the dense multiply-adds")


if __name__ == "__main__":
    main()
