"""One arm in training: the model, its optimizer, its schedule and its methods, as one thing that can be saved whole."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import thrifty.models
from thrifty.compose import Applied, NoEffectWarning, apply_
from thrifty.core.errors import CheckpointError
from thrifty.core.seeds import derive_seed
from thrifty.data import ImageData
from thrifty.train import optimizers, schedule
from thrifty.train.arms import Arm
from thrifty.train.config import TrainConfig
from thrifty.train.tally import Tally


class Session:
    """An arm, built from the seed of the run: two arms of one run start from the same weights.

    Attributes:
        model: with the arm's methods applied.
        call: what a training step calls: `model`, compiled where the run is.
        optimizer: over the model's parameters.
        scheduler: stepped once after each optimizer step.
        compiles: whether the next step compiles.
        applied: the handle of the methods; None without methods.
        tally: what was done so far.
        notices: what the user should know about the methods on this model.

    Raises:
        UsageError, ModelError: from building the model or applying the methods.
    """

    def __init__(self, config: TrainConfig, arm: Arm, data: ImageData, *, steps: int) -> None:
        self.model = build_model(config, data)
        assert config.learning_rate is not None  # filled in by resolved()
        self.optimizer: Optimizer = optimizers.make(
            config.optimizer,
            self.model,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.scheduler: LambdaLR = schedule.make(config.schedule, self.optimizer, steps=steps)
        self.notices: list[str] = []
        self.applied = self._apply(config, arm) if arm.methods else None
        # Beside the model, not in place of it: its state keeps the stock keys, and testing needs no second compilation.
        self.call: Callable[[Tensor], Tensor] = torch.compile(self.model) if config.compile else self.model
        self.compiles = config.compile
        self.tally = Tally()
        # Dropout and the like draw from here on; what building and surgery drew must not shift them.
        seed_generators(config.seed, "training")

    def _apply(self, config: TrainConfig, arm: Arm) -> Applied:
        seed_generators(config.seed, "methods")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NoEffectWarning)
            applied = apply_(self.model, arm.methods, optimizer=self.optimizer)
        for warning in caught:
            if issubclass(warning.category, NoEffectWarning):
                self.notices.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return applied

    def state_dict(self) -> dict[str, Any]:
        """Return all that training depends on: tensors and plain data, fit for `torch.load(weights_only=True)`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "methods": self.applied.state_dict() if self.applied else None,
            "generator": torch.get_rng_state(),
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, torch's global generator included.

        Raises:
            CheckpointError: the state is damaged or of another model; the session is of no use then.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            if self.applied is not None:
                self.applied.load_state_dict(state["methods"])
            self.tally = Tally.from_state(state["tally"])
            torch.set_rng_state(state["generator"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit this model ({reason}): use another --out") from error


def build_model(config: TrainConfig, data: ImageData) -> nn.Module:
    """Build the network of `config` for the images and classes of `data`, from the seed of the run."""
    seed_generators(config.seed, "weights")
    model = thrifty.models.build(
        config.model, num_classes=len(data.classes), in_channels=data.channels, image_size=data.image_size
    )
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model


def seed_generators(seed: int, purpose: str) -> None:
    """Seed the global generators of torch, NumPy and Python for one purpose."""
    value = derive_seed(seed, "train", purpose)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
