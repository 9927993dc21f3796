"""One arm in training: the model, its optimizer, its schedule and its methods, as one thing that can be saved whole."""

import random
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import thrifty.models
from thrifty.autodiff import checkpointing
from thrifty.compose import Applied, NoEffectWarning, apply_
from thrifty.core.counters import LayerCounters
from thrifty.core.errors import CheckpointError
from thrifty.core.seeds import derive_seed
from thrifty.data import ImageData
from thrifty.distributed.precision import MixedPrecision, Precision, PrecisionWarning
from thrifty.distributed.workers import ALONE, Workers
from thrifty.train import optimizers, schedule
from thrifty.train.arms import Arm
from thrifty.train.config import DDP, TrainConfig
from thrifty.train.exchange import Exchange, Sample
from thrifty.train.tally import Tally


class Session:
    """An arm, built from the seed of the run: two arms of one run start from the same weights.

    Attributes:
        model: with the arm's methods applied.
        call: what a training step calls: `model`, wrapped where several workers train it, compiled where the run is.
        workers: who trains it.
        optimizer: over the model's parameters, or over their fp32 masters.
        precision: in which the model computes and keeps its weights.
        scheduler: stepped once after each optimizer step.
        compiles: whether the next step compiles.
        applied: the handle of the methods; None without methods.
        memory: the checkpointing of all steps; None without a limit.
        tally: what was done so far.
        exchange: how gradients travel between workers; None alone.
        notices: what the user should know about the methods on this model.

    Raises:
        UsageError, ModelError: from building the model or applying the methods.
    """

    def __init__(
        self,
        config: TrainConfig,
        arm: Arm,
        data: ImageData,
        *,
        steps: int,
        workers: Workers = ALONE,
        sample: Sample | None = None,
        plan_file: Path | None = None,
    ) -> None:
        """Build the arm.

        Args:
            config: of the run, resolved.
            arm: of the run.
            data: images to build the network for.
            steps: of the whole training.
            workers: who trains.
            sample: this worker's images and labels of a step, for measuring; called where `config` asks for a plan.
            plan_file: where what was measured is kept, and taken from.
        """
        self.workers = workers
        self.model = build_model(config, data)
        assert config.learning_rate is not None  # filled in by resolved()
        self.optimizer: Optimizer = optimizers.make(
            config.optimizer,
            self.model,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            exempt=config.exempt,
        )
        self.scheduler: LambdaLR = schedule.make(config.schedule, self.optimizer, steps=steps, warm_up=config.warm_up)
        self.notices: list[str] = []
        self.applied = self._apply(config, arm) if arm.methods else None
        self.precision = self._mix(arm.precision)
        self.memory = checkpointing(config.memory) if config.memory is not None else None
        self._recomputed_ops = 0
        self.exchange: Exchange | None = None
        if workers.group is None and config.plan != DDP:
            self.notices.append(f"--plan {config.plan} changes nothing here: one process sends no gradients")
        if workers.group is not None:
            self.exchange = Exchange(
                self.model, config, arm, workers, precision=self.precision, applied=self.applied, sample=sample,
                plan_file=plan_file,
            )  # fmt: skip
        model = self.model if self.exchange is None else self.exchange.model
        # Beside the model, not in place of it: its state keeps the stock keys, and testing needs no second compilation.
        self.call: Callable[[Tensor], Tensor] = torch.compile(model) if config.compile else model
        self.compiles = config.compile
        self.tally = Tally()
        self._counters: dict[str, LayerCounters] | None = None
        self._seed = config.seed
        # Dropout and the like draw from here on; what building and surgery drew must not shift them.
        self._seed_training()

    def _apply(self, config: TrainConfig, arm: Arm) -> Applied:
        seed_generators(config.seed, "methods")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NoEffectWarning)
            applied = apply_(self.model, arm.methods, optimizer=self.optimizer, group=self.workers.group)
        for warning in caught:
            if issubclass(warning.category, NoEffectWarning):
                self.notices.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return applied

    def _mix(self, policy: Precision) -> MixedPrecision:
        self.notices += filter(None, [policy.drawback()])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)  # it is among the notices
            return MixedPrecision(policy, self.model, self.optimizer, group=self.workers.group)

    def _seed_training(self, *more: int) -> None:
        """Seed what training draws; workers draw differently, as they see different images."""
        rank = self.workers.rank
        seed_generators(self._seed, "training", *([rank] if rank else []), *more)

    def close(self) -> None:
        """End what runs beside the training; the session is of no use then."""
        if self.exchange is not None:
            self.exchange.close()

    def limited(self) -> AbstractContextManager[object]:
        """Around what a step computes: keeps it within the limit of memory, where there is one."""
        return self.memory or nullcontext()

    def note_memory(self) -> None:
        """Enter what the limit of memory took into the tally."""
        if self.memory is not None:
            self.tally.step_peak_bytes = max(self.tally.step_peak_bytes, self.memory.peak_bytes)
            self.tally.recomputed_ops += self.memory.recomputed_ops - self._recomputed_ops
            self._recomputed_ops = self.memory.recomputed_ops

    @property
    def sent_bytes(self) -> int:
        """Bytes of gradients that each worker sends in a step."""
        return self.exchange.sent_bytes if self.exchange else 0

    def settle(self) -> None:
        """Give all workers the same buffers, and add up what their layers counted; all call it, between epochs."""
        self.workers.sync_buffers(self.model)
        if self.applied is None or self.workers.group is None:
            return
        counted = [counters.to_dict() for counters in self.applied.counters().values()]
        self._counters = {}
        for name, of_workers in zip(
            self.applied.counters(), zip(*self.workers.gather(counted), strict=True), strict=True
        ):
            total = LayerCounters()
            for state in of_workers:
                total.include(LayerCounters.from_dict(state))
            self._counters[name] = total

    def counters(self) -> Mapping[str, LayerCounters]:
        """What the changed layers counted, of all workers as of the last `settle`."""
        if self._counters is not None:
            return self._counters
        return self.applied.counters() if self.applied else {}

    def shared_state(self) -> dict[str, Any]:
        """What all workers have alike: tensors and plain data, fit for `torch.load(weights_only=True)`."""
        return {
            "model": self.precision.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "precision": self.precision.state_dict(),
            "tally": self.tally.state_dict(),
        }

    def own_state(self) -> dict[str, Any]:
        """What this worker has of its own, of the same kinds of data."""
        return {
            "methods": self.applied.state_dict() if self.applied else None,
            "wire": self.exchange.state_dict() if self.exchange else None,
            "generator": torch.get_rng_state(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that training depends on, of one worker alone."""
        return {"shared": self.shared_state(), "own": {0: self.own_state()}, "workers": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, torch's global generator included.

        A worker that was not there when it was saved begins its own part anew, from the seed and the step.

        Raises:
            CheckpointError: the state is damaged or of another model; the session is of no use then.
        """
        try:
            shared, own = state["shared"], state["own"].get(self.workers.rank)
            self.precision.load_weights(shared["model"])
            self.optimizer.load_state_dict(shared["optimizer"])
            self.scheduler.load_state_dict(shared["scheduler"])
            self.precision.load_state_dict(shared["precision"])
            self.tally = Tally.from_state(shared["tally"])
            if own is None:
                self._seed_training(self.tally.step)
                return
            if self.applied is not None:
                self.applied.load_state_dict(own["methods"])
            if self.exchange is not None and own["wire"] is not None:
                self.exchange.load_state_dict(own["wire"])
            torch.set_rng_state(own["generator"])
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


def seed_generators(seed: int, purpose: str, *more: int) -> None:
    """Seed the global generators of torch, NumPy and Python for one purpose."""
    value = derive_seed(seed, "train", purpose, *more)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
