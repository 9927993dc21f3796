"""A whole run: every arm in turn from one seed on one schedule, recorded as it goes."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from thrifty.core.atomic import write_json
from thrifty.core.errors import CheckpointError, DistributedError, NonFiniteError, OutOfMemoryError, ThriftyError
from thrifty.core.exhaustion import told_as_exhaustion
from thrifty.data import ImageData
from thrifty.distributed.workers import Workers, joined
from thrifty.train import events, folder, record
from thrifty.train.arms import Arm, fit_arms, parse_arms
from thrifty.train.choice import choose
from thrifty.train.config import NOT_SETTINGS, TrainConfig
from thrifty.train.display import Display
from thrifty.train.interrupt import Interrupted, InterruptWatch
from thrifty.train.resume import check_arms, check_settings, identity, settings_of
from thrifty.train.training import ArmTraining
from thrifty.train.trial import Plan, make_plan

_ADVICE = "free some and go on with --resume, or begin anew with a smaller --batch-size or --image-size"


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        record: as written to `result.json`.
        folder: where it lies.
        interrupted: whether the run was asked to stop before its end.
        reports: whether this is the process that should tell of it: one of all that trained.
    """

    record: dict[str, Any]
    folder: Path
    interrupted: bool
    reports: bool = True

    @property
    def exit_code(self) -> int:
        """0 when every arm came to its end, 1 when one had to stop, 130 after an interruption."""
        if self.interrupted:
            return 130
        return 0 if all(arm["status"] == "finished" for arm in self.record["arms"]) else 1


@dataclass(frozen=True)
class Turn:
    """A run that takes turns with others: it stops, fit to go on, when so many epochs of its arms are done.

    Attributes:
        data: what `load_data` gives for the run's config; the runs that take turns share it.
        until_epoch: epochs done at the end of the turn, at least 1.
    """

    data: ImageData
    until_epoch: int


def run(config: TrainConfig, *, command: str = "", console: Console | None = None, turn: Turn | None = None) -> Outcome:
    """Train the arms of `config` and write the folder of the run.

    Started by torchrun, the workers share every batch, worker 0 writes and reports, and after a restart of the group
    the run goes on from its newest checkpoint.

    Args:
        config: the settings; `resume` goes on where the run in `out` was killed or interrupted.
        command: kept in the record.
        console: where progress is shown; standard output where None.
        turn: train only so far.

    Returns:
        The outcome. An arm whose loss left the finite numbers, or that ran out of memory, is stopped and told of in its
        `message`; the other arms go on.

    Raises:
        UsageError, ModelError, DataError, OutOfMemoryError: before anything is written.
        CheckpointError: the run to go on with is another one or damaged; its files stay as they are.
        DistributedError: the workers cannot be joined, do not agree, or one was lost.
    """
    config = config.resolved()
    arms = parse_arms(config)
    with (
        told_as_exhaustion(_ADVICE),
        joined(config.worker_timeout) as workers,
        torch.random.fork_rng(devices=[]),
        _threads(config.threads),
    ):
        return _run(workers, config, arms, command, console, turn)


def _run(
    workers: Workers,
    config: TrainConfig,
    arms: Sequence[Arm],
    command: str,
    console: Console | None,
    turn: Turn | None,
) -> Outcome:
    """`run` of one of the workers, which take the same steps; what only one may do is done by the first."""
    out = Path(str(config.out))
    settings = settings_of(config)
    _check_alike(workers, settings)
    resume, earlier = workers.only_first(lambda: _begin(config, out))
    config = replace(config, resume=resume, overwrite=config.overwrite and not resume)
    if config.tensorboard:
        events.check_installed()
    plan = workers.everywhere(lambda: make_plan(config, arms, turn.data if turn else None, workers))
    settings = {**settings, **plan.facts()}
    _check_alike(workers, settings)
    shown = console or Console() if workers.first else Console(quiet=True)
    display = Display(shown, brief=turn is not None)
    begun = time.perf_counter()
    arms, tried = workers.only_first(lambda: choose(plan, arms, earlier, display.say))
    tried_s = time.perf_counter() - begun
    arms = fit_arms(arms, steps=plan.steps)
    if earlier is not None:
        check_settings(out, earlier, settings)
        check_arms(out, earlier, arms)
    with contextlib.ExitStack() as stack:

        def take_folder() -> None:
            stack.enter_context(folder.locked(out))
            if config.overwrite:
                folder.clear(out)

        workers.only_first(take_folder)
        content = earlier or record.new_record(arms, settings, command, tried, tried_s)
        runner = _Runner(plan, arms, content, out, display)
        if earlier is not None:
            runner.note_resumption()
        return runner.run(turn.until_epoch if turn else None)


def _begin(config: TrainConfig, out: Path) -> tuple[bool, dict[str, Any] | None]:
    """Whether to go on with a run, and its record."""
    resume = config.resume
    if _restarted() and (out / folder.RESULT).is_file():
        over = folder.read_record(out)["status"] == "finished"
        resume = not (over and config.overwrite)  # else torchrun began anew before the old run was removed
    if resume:
        earlier = folder.read_record(out)
        check_settings(out, earlier, settings_of(config))
        return True, earlier
    folder.check_new(out, overwrite=config.overwrite)
    return False, None


def _restarted() -> bool:
    """Whether torchrun started the workers again, after one was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def _check_alike(workers: Workers, settings: dict[str, Any]) -> None:
    ours = {key: value for key, value in settings.items() if key not in NOT_SETTINGS}
    for rank, theirs in enumerate(workers.gather(ours)):
        differing = [key for key in ours if theirs.get(key) != ours[key]]
        if differing:
            raise DistributedError(
                f"worker {rank} differs from worker {workers.rank} in {', '.join(differing)}: "
                "start all with the same command, on the same data"
            )


class _Runner:
    """The arms in turn, and the record that follows them."""

    def __init__(self, plan: Plan, arms: Sequence[Arm], content: dict[str, Any], out: Path, display: Display) -> None:
        self._plan, self._arms, self._content, self._out, self._display = plan, arms, content, out, display
        self._reports, self._interrupted = plan.workers.first, False

    def note_resumption(self) -> None:
        """Write down that the run goes on, and say so when it cannot be bit for bit."""
        machine, threads = self._content["machine"], torch.get_num_threads()
        if machine.get("threads") != threads or machine.get("torch") != torch.__version__:
            self._display.warn(
                f"the run was begun with {machine.get('threads')} threads of torch {machine.get('torch')} and goes on "
                f"with {threads} of {torch.__version__}: its numbers may differ in the last digits from an unbroken run"
            )
        before = max((arm.get("workers") or 1 for arm in self._content["arms"]), default=1)
        if before != self._plan.workers.size:
            self._display.warn(
                f"the run was begun with {before} worker{'s' * (before > 1)} and goes on with "
                f"{self._plan.workers.size}: its numbers may differ from an unbroken run"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._content = {**self._content, "status": "running", "resumed": [*self._content.get("resumed", []), now]}

    def run(self, until_epoch: int | None) -> Outcome:
        """Train what is not yet done."""
        self._write()
        with InterruptWatch() as watch, self._display:
            for index, arm in enumerate(self._arms):
                state = self._content["arms"][index]
                if state["status"] == "finished" or (state["status"] == "stopped" and not state.get("resumable")):
                    self._display.say(f"{arm.name}: {state['status']} before, not trained again")
                    continue
                self._publish(index, self._train(index, arm, watch, until_epoch))
                if self._interrupted:
                    break
        paused = any(state.get("resumable") for state in self._content["arms"])
        self._content["status"] = "stopped" if self._interrupted or paused else "finished"
        self._write()
        return Outcome(self._content, self._out, self._interrupted, self._reports)

    def _train(self, index: int, arm: Arm, watch: InterruptWatch, until_epoch: int | None) -> dict[str, Any]:
        """Train one arm, and return its last record whatever became of it."""
        training = None
        try:
            with told_as_exhaustion(_ADVICE):
                training = ArmTraining(
                    self._plan,
                    arm,
                    out=self._out,
                    identity=identity(self._content["settings"], arm),
                    display=self._display,
                    watch=watch,
                    publish=lambda state: self._publish(index, state),
                )
                return training.run(until_epoch)
        except CheckpointError:
            raise
        except (Interrupted, ThriftyError) as error:
            self._interrupted = isinstance(error, Interrupted)  # by a signal to any of the workers
            if self._plan.workers.size > 1 and not isinstance(error, (Interrupted, NonFiniteError)):
                raise  # the others may not have met it, and must not wait
            resumable = isinstance(error, Interrupted | OutOfMemoryError)
            state = training.record() if training else record.pending(arm)
            self._display.say(f"{arm.name} stopped: {error}", style="yellow" if resumable else "red")
            return {**state, "status": "stopped", "message": str(error), "resumable": resumable}

    def _publish(self, index: int, state: dict[str, Any]) -> None:
        self._content["arms"][index] = state
        self._write()

    def _write(self) -> None:
        if not self._reports:
            return
        self._content["summary"] = record.summarise(self._content["arms"])
        write_json(self._out / folder.RESULT, self._content)


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
