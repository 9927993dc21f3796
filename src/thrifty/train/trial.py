"""The run that is about to begin: its data and its network, tried on two images before anything is written."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thrifty.compose import NoEffectWarning, apply_, remove_
from thrifty.core.errors import ModelError, ThriftyError, UsageError
from thrifty.core.seeds import derive_seed
from thrifty.data import ImageBatches, ImageData, load_images
from thrifty.distributed.workers import ALONE, Workers
from thrifty.train.arms import Arm
from thrifty.train.config import TrainConfig
from thrifty.train.macs import count_macs
from thrifty.train.session import build_model


@dataclass(frozen=True)
class Plan:
    """What all arms of a run share.

    Attributes:
        config: resolved settings.
        data: training and test images.
        steps_per_epoch: training steps of a whole epoch.
        steps: training steps of an arm.
        macs_per_sample: of the stock network, forward and backward.
        workers: who trains: each gets its share of every batch.
    """

    config: TrainConfig
    data: ImageData
    steps_per_epoch: int
    steps: int
    macs_per_sample: int
    workers: Workers = ALONE

    @property
    def images_a_step(self) -> int:
        """Images of all workers in a training step."""
        return min(self.config.batch_size, len(self.data.train.labels))

    @property
    def epochs(self) -> int:
        """Epochs of an arm; the last is cut short when `limit_steps` ends inside it."""
        return -(-self.steps // self.steps_per_epoch)

    def train_batches(self, epoch: int, start_step: int) -> ImageBatches:
        """This worker's batches of one epoch (from 0), the same for every arm, from `start_step` on."""
        return _train_batches(self.config, self.data, epoch, start_step, self.workers)

    def test_batches(self) -> ImageBatches:
        """This worker's share of the test images, in order."""
        data = self.data
        return ImageBatches(
            data.test,
            self.config.batch_size,
            mean=data.mean,
            std=data.std,
            augment=None,
            shuffle=False,
            seed=0,
            share=(self.workers.rank, self.workers.size),
        )

    def facts(self) -> dict[str, object]:
        """Return what the data turned out to be, for the record and to tell one run from another."""
        return {
            "source": self.data.source,
            "train_images": len(self.data.train.labels),
            "test_images": len(self.data.test.labels),
            "image_shape": list(self.data.train.images.shape[1:]),
            "classes": list(self.data.classes),
        }


def load_data(config: TrainConfig) -> ImageData:
    """Load the data of `config`. Raises UsageError, DataError: the data set is unknown, missing or damaged."""
    return load_images(
        config.data,
        root=config.data_root,
        limit_train=config.limit_train,
        limit_test=config.limit_test,
        image_size=config.image_size,
        seed=config.seed,
    )


def make_plan(
    config: TrainConfig, arms: Sequence[Arm], data: ImageData | None = None, workers: Workers = ALONE
) -> Plan:
    """Load the data of `config` (resolved), run its network on two images and apply the methods of `arms` to it.

    `data` is what `load_data` gives for `config`, where somebody has loaded it already.

    Raises:
        UsageError, DataError: the data set is unknown, missing or damaged.
        UsageError, ModelError: the network is unknown, does not fit the images, or fails on them; methods that
            cannot be applied to it.
    """
    data = data or load_data(config)
    images = min(config.batch_size, len(data.train.labels))
    if images < workers.size:
        raise UsageError(f"a step has {images} images for {workers.size} workers: raise --batch-size, or start fewer")
    per_epoch = len(_train_batches(config, data, 0, 0))
    steps = config.epochs * per_epoch
    if config.limit_steps is not None:
        steps = min(steps, config.limit_steps)
    return Plan(config, data, per_epoch, steps, _try_model(config, data, arms), workers)


def _train_batches(
    config: TrainConfig, data: ImageData, epoch: int, start_step: int, workers: Workers = ALONE
) -> ImageBatches:
    return ImageBatches(
        data.train,
        config.batch_size,
        mean=data.mean,
        std=data.std,
        augment=data.augment if config.augment else None,
        shuffle=True,
        seed=derive_seed(config.seed, "train", "batches"),
        epoch=epoch,
        start_step=start_step,
        # A short last batch would be a step of its own weight, and BatchNorm cannot take a batch of one.
        drop_last=len(data.train.labels) >= config.batch_size,
        share=(workers.rank, workers.size),
    )


def _try_model(config: TrainConfig, data: ImageData, arms: Sequence[Arm]) -> int:
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, data)
        images, _ = next(iter(_train_batches(config, data, 0, 0)))
        images = images[:2]
        try:
            logits, macs = count_macs(model, images)
        except ThriftyError:
            raise
        except Exception as error:  # a user's network may raise anything
            raise ModelError(
                f"{config.model} fails on images of shape {tuple(images.shape[1:])}: {type(error).__name__}: {error}"
            ) from error
    wanted = (len(images), len(data.classes))
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != wanted:
        raise ModelError(
            f"{config.model} gives {found} for {len(images)} images of {wanted[1]} classes: "
            f"it must return logits of shape {wanted}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"{config.model} has no trainable parameter")
    for arm in arms:
        if arm.methods:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffectWarning)  # told when the arm begins
                apply_(model, arm.methods)
            remove_(model)
    return macs
