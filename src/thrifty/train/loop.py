"""One epoch of training: the step, and the clock around it."""

import math
import time
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.nn import functional

from thrifty.core.errors import NonFiniteError
from thrifty.data.ahead import ahead
from thrifty.distributed.workers import check_gradients, exchanging
from thrifty.train.schedule import rate
from thrifty.train.session import Session

Wishes = Callable[[int], Sequence[float]]
"""What this worker wishes to do after the step of that number, 1 or 0 for each thing."""


def train_epoch(
    session: Session,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    label_smoothing: float,
    last_step: int,
    images_a_step: int,
    wishes: Wishes,
    after_step: Callable[[Sequence[float]], None],
) -> None:
    """Train on `batches` until they end or step `last_step` is done.

    Args:
        session: its tally is added to; waiting for batches and training go to separate clocks.
        batches: this worker's pairs of float images and int64 labels, from the tally's `epoch_step` on; the next one is
            made while a step runs.
        label_smoothing: share of the target spread over all classes.
        last_step: number of the arm's last step, counted from 1.
        images_a_step: images of all workers in a step.
        wishes: asked in each step.
        after_step: called between steps, when everything is whole, with the workers' wishes added up; its time is on no
            clock.

    Raises:
        NonFiniteError: the loss is not finite; the weights are those of before that step.
        DistributedError: another worker was lost.
    """
    tally = session.tally
    with ahead(batches) as iterator:
        while tally.step < last_step:
            start = time.perf_counter()
            batch = next(iterator, None)
            ready = time.perf_counter()
            tally.data_s += ready - start
            if batch is None:
                return
            learning_rate = rate(session.optimizer)
            loss, correct, *told = train_step(
                session, *batch, label_smoothing=label_smoothing, images_a_step=images_a_step, wishes=wishes
            )
            seconds = time.perf_counter() - ready
            if session.compiles:  # once in a process, whatever the length of the training
                tally.compile_s += seconds
                session.compiles = False
            else:
                tally.train_s += seconds
                tally.timed_steps += 1
            session.note_memory()
            tally.sent_bytes += session.sent_bytes
            tally.add_step(loss=loss, correct=round(correct), images=images_a_step, learning_rate=learning_rate)
            after_step(told)


def train_step(
    session: Session,
    images: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float,
    images_a_step: int | None = None,
    wishes: Wishes = lambda step: (),
) -> list[float]:
    """Do one step, and return its loss, the number of images that were classified rightly, and the wishes, of all.

    Raises NonFiniteError and DistributedError as `train_epoch` does.
    """
    workers, precision = session.workers, session.precision
    with exchanging(workers), session.limited(), precision.autocast():
        logits = session.call(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    value, correct, step = loss.item(), int((logits.detach().argmax(dim=1) == labels).sum()), session.tally.step + 1
    asked = list(wishes(step))
    if workers.group is None:
        _check_finite(value, session)
        told = [value, correct, *asked]
    else:
        share = len(labels) / (images_a_step or len(labels) * workers.size)
        waiting = workers.start_sum([value * share, correct, *asked])  # the sums come while the backward pass runs
        loss = loss * (share * workers.size)  # the mean over workers is then the mean over images
    precision.zero_grad()
    with exchanging(workers), session.limited():
        precision.backward(loss)
    if workers.group is not None:
        check_gradients(session.model)
        told = waiting()
        _check_finite(told[0], session)
    if precision.step():
        session.scheduler.step()
    if session.applied is not None:
        session.applied.step(told[0])
    return told


def _check_finite(value: float, session: Session) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss of step {session.tally.step + 1} is {value} (learning rate {rate(session.optimizer):.3g}): "
            "lower --learning-rate, or choose another network or --optimizer"
        )
