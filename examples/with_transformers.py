"""The methods in a Hugging Face Trainer: `python examples/with_transformers.py`.

Needs pip install "thrifty[transformers]". Trains CifarNet on the slice of Fashion-MNIST that comes with thrifty.
"""

import argparse
import tempfile

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import thrifty
from thrifty.data import ImageSplit, load_images
from thrifty.integrations.transformers import apply_to_trainer
from thrifty.models import build


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = build("cifarnet", num_classes=10, in_channels=1, image_size=28)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixels)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def examples(split: ImageSplit, mean: Tensor, std: Tensor) -> list[dict[str, Tensor]]:
    pixels = (split.images.permute(0, 3, 1, 2) / 255 - mean[:, None, None]) / std[:, None, None]
    return [{"pixels": x, "labels": y} for x, y in zip(pixels, split.labels, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=None, help="so many of each split")
    arguments = parser.parse_args()
    data = load_images("fashion-mnist-slice", limit_train=arguments.images, limit_test=arguments.images)
    train, test = (examples(split, data.mean, data.std) for split in (data.train, data.test))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=arguments.epochs, per_device_train_batch_size=128, learning_rate=1e-3, seed=0,
            label_names=["labels"], report_to="none", save_strategy="no", logging_strategy="epoch", use_cpu=True,
        )  # fmt: skip
        torch.manual_seed(0)
        trainer = Trainer(Classifier(), settings, train_dataset=train)
        applied = apply_to_trainer(trainer, [thrifty.Reuse()])
        trainer.train()
        found = trainer.predict(test)
    right = (torch.from_numpy(found.predictions).argmax(1) == torch.from_numpy(found.label_ids)).float().mean()
    print(f"{100 * right:.1f} % of {len(test)} test images")
    for name, counters in applied.counters().items():
        print(f"{name}: {counters.macs / counters.dense_macs:.0%} of the dense multiply-adds")


if __name__ == "__main__":
    main()
