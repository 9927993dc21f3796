"""One arm from its first step, or from its checkpoint, to its end."""

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.compose.looks import Looks
from thrifty.core.atomic import write_bytes
from thrifty.core.errors import NonFiniteError
from thrifty.train import checkpoint, folder, memory, record, sharded
from thrifty.train.arms import Arm
from thrifty.train.config import MEASURE
from thrifty.train.display import Display
from thrifty.train.evaluate import evaluate
from thrifty.train.events import Events
from thrifty.train.interrupt import Interrupted, InterruptWatch
from thrifty.train.loop import train_epoch
from thrifty.train.rhythm import Rhythm
from thrifty.train.session import Session
from thrifty.train.trial import Plan


class ArmTraining:
    """Trains one arm and keeps its checkpoints, losses and record.

    Args:
        plan: what the arms share.
        arm: what this one has of its own.
        out: folder of the run.
        identity: what its checkpoints must agree in.
        display: where progress is shown.
        watch: asked after each step whether to stop.
        publish: takes the arm's record whenever it has changed.

    Raises:
        CheckpointError: the arm's checkpoints are damaged or of another run.
        UsageError, ModelError: a method cannot be applied.
    """

    def __init__(
        self,
        plan: Plan,
        arm: Arm,
        *,
        out: Path,
        identity: dict[str, Any],
        display: Display,
        watch: InterruptWatch,
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._plan, self._arm, self._out = plan, arm, out
        self._identity, self._display, self._watch, self._publish = identity, display, watch, publish
        memory.release()
        self._peak = memory.PeakMemory()
        self._workers = workers = plan.workers
        self._session = Session(
            plan.config,
            arm,
            plan.data,
            steps=plan.steps,
            workers=workers,
            sample=lambda: next(iter(plan.train_batches(0, 0))),
            plan_file=self._plan_file(),
        )
        self._folder = folder.checkpoints(out, arm.name)
        name, damaged = workers.only_first(lambda: checkpoint.find(self._folder, identity=identity))
        for message in damaged:
            display.warn(message)
        if name is not None:
            workers.everywhere(lambda: self._session.load_state_dict(self._read(name)))
        self._rhythm = Rhythm(plan.config.checkpoint_every)
        tensorboard = out / "tensorboard" / arm.name if plan.config.tensorboard and workers.first else None
        self._events = Events(tensorboard, step=self._session.tally.step)

    def _plan_file(self) -> Path:
        """Where the merge plan is kept: with the run, or where the user has one."""
        chosen = self._plan.config.plan
        return self._out / "plans" / f"{self._arm.name}.json" if chosen == MEASURE else Path(chosen)

    def run(self, until_epoch: int | None = None) -> dict[str, Any]:
        """Train to the end, or until so many epochs are done, and return the arm's record.

        Raises:
            NonFiniteError: the loss left the finite numbers; the newest checkpoint is from before that.
            Interrupted: the watch was asked to stop; the checkpoint is of this moment.
        """
        plan, tally = self._plan, self._session.tally
        self._announce()
        self._publish(self.record())
        try:
            while tally.epoch < min(plan.epochs, until_epoch or plan.epochs):
                self._epoch()
        finally:
            self._session.close()
            self._events.close()
            self._display.end_arm()
        if tally.epoch < plan.epochs:
            message = f"paused after epoch {tally.epoch} of {plan.epochs}"
            return {**self.record(), "status": "stopped", "message": message, "resumable": True}
        return {**self.record(), "status": "finished"}

    def record(self) -> dict[str, Any]:
        """Return the arm's record as of now."""
        tally = self._session.tally
        tally.peak_bytes = max(tally.peak_bytes, self._peak.bytes())
        return record.progress(
            self._arm, self._session, macs_per_sample=self._plan.macs_per_sample, peak_source=self._peak.source
        )

    def _epoch(self) -> None:
        plan, config, session, tally = self._plan, self._plan.config, self._session, self._session.tally
        train_epoch(
            session,
            plan.train_batches(tally.epoch, tally.epoch_step),
            label_smoothing=config.label_smoothing,
            last_step=plan.steps,
            images_a_step=plan.images_a_step,
            wishes=self._wishes,
            after_step=self._after_step,
        )
        start = time.perf_counter()
        session.settle()
        with Looks(session.model, session.applied) as looks:
            test_loss, test_accuracy = evaluate(
                session.model, plan.test_batches(), precision=self._arm.precision, workers=self._workers
            )
        tally.looks = looks.found()
        tally.eval_s += time.perf_counter() - start
        if not math.isfinite(test_loss):
            raise NonFiniteError(
                f"the test loss after step {tally.step} is {test_loss}: lower --learning-rate, "
                "or choose another network or --optimizer"
            )
        row = tally.end_epoch(test_loss=test_loss, test_accuracy=test_accuracy)
        self._save()
        self._publish(self.record())
        self._events.epoch(tally.step, row)
        self._display.epoch(self._arm.name, row, plan.epochs)

    def _wishes(self, step: int) -> Sequence[float]:
        """To stop, which any worker may wish, and to save, which the first one's clock decides."""
        return float(self._watch.requested), float(self._workers.first and self._rhythm.due(step))

    def _after_step(self, told: Sequence[float]) -> None:
        tally = self._session.tally
        self._display.step(tally.step, tally.losses[-1])
        self._events.step(tally.step, tally.losses[-1], tally.learning_rate)
        stop, save = (wished > 0 for wished in told)
        if stop or save:
            self._save()
        if stop:
            self._publish(self.record())
            raise Interrupted(f"interrupted after step {tally.step} of {self._plan.steps}")

    def _save(self) -> None:
        start = time.perf_counter()
        tally = self._session.tally
        tally.peak_bytes = max(tally.peak_bytes, self._peak.bytes())
        if self._workers.group is None:
            checkpoint.save(self._folder, self._session.state_dict(), identity=self._identity)
        else:
            # Each tensor is written by one of the workers, so they must be alike, which running statistics are not.
            self._workers.sync_buffers(self._session.model)
            session = self._session
            sharded.save(
                self._folder,
                session.shared_state(),
                session.own_state(),
                identity=self._identity,
                workers=self._workers,
            )
        if self._workers.first:
            losses = io.BytesIO()
            np.save(losses, np.asarray(tally.losses, dtype=np.float64))
            write_bytes(self._out / "losses" / f"{self._arm.name}.npy", losses.getvalue())
        self._rhythm.saved(time.perf_counter() - start)

    def _read(self, name: str) -> dict[str, Any]:
        return checkpoint.read(self._folder / name, self._workers.rank)

    def _announce(self) -> None:
        session, tally = self._session, self._session.tally
        parameters = sum(parameter.numel() for parameter in session.model.parameters())
        notes = []
        if self._workers.size > 1:
            notes.append(f"{self._workers.size} workers share each batch of {self._plan.images_a_step} images")
        if session.exchange is not None and (merge := session.exchange.plan) is not None:
            notes.append(f"gradients travel in {len(merge.buckets)} buckets, by the merge plan")
        if session.memory is not None:
            notes.append(f"a step keeps within {self._plan.config.memory}; what does not fit is computed again")
        if session.applied is not None:
            changed = [layer.name for layer in session.applied.layers if layer.action != "dense"]
            notes.append(f"changed layers: {', '.join(changed) or 'none'}")
        if tally.step:
            notes.append(f"going on after step {tally.step} of {self._plan.steps}")
        for notice in session.notices:
            self._display.warn(notice)
        self._display.begin_arm(
            self._arm.name,
            f"{self._arm.name}: {parameters:,} parameters, {self._plan.macs_per_sample / 1e6:,.1f} M MACs an image",
            notes,
            step=tally.step,
            steps=self._plan.steps,
        )
