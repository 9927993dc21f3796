"""The methods as a Lightning callback: `python examples/with_lightning.py --epochs 3`.

Needs pip install "thrifty[lightning]". Trains CifarNet on the slice of Fashion-MNIST that comes with thrifty.
"""

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn.functional import cross_entropy

import thrifty
from thrifty.data import ImageBatches, load_images
from thrifty.integrations.lightning import ThriftyCallback
from thrifty.models import build


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = build("cifarnet", num_classes=10, in_channels=1, image_size=28)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=None, help="so many of each split")
    arguments = parser.parse_args()
    data = load_images("fashion-mnist-slice", limit_train=arguments.images, limit_test=arguments.images)
    shared = {"mean": data.mean, "std": data.std, "seed": 0}
    seed_everything(0)
    module, callback = Classifier(), ThriftyCallback([thrifty.Reuse()])
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=arguments.epochs, callbacks=[callback], enable_progress_bar=False, **quiet)
    trainer.fit(module, ImageBatches(data.train, 128, augment=data.augment, shuffle=True, **shared))
    found = trainer.test(module, ImageBatches(data.test, 500, augment=None, shuffle=False, **shared), verbose=False)
    print(f"{100 * found[0]['accuracy']:.1f} % of {len(data.test)} test images")
    for name, counters in callback.applied.counters().items():
        print(f"{name}: {counters.macs / counters.dense_macs:.0%} of the dense multiply-adds")


if __name__ == "__main__":
    main()
