"""One epoch of training: the step, and the clock around it."""

import math
import time
from collections.abc import Callable, Iterable

from torch import Tensor
from torch.nn import functional

from thrifty.core.errors import NonFiniteError
from thrifty.train.evaluate import autocast
from thrifty.train.schedule import rate
from thrifty.train.session import Session


def train_epoch(
    session: Session,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    amp: str,
    label_smoothing: float,
    last_step: int,
    after_step: Callable[[], None],
) -> None:
    """Train on `batches` until they end or step `last_step` is done.

    Args:
        session: its tally is added to; waiting for batches and training go to separate clocks.
        batches: pairs of float images and int64 labels, from the tally's `epoch_step` on.
        amp: `none` or `bf16`.
        label_smoothing: share of the target spread over all classes.
        last_step: number of the arm's last step, counted from 1.
        after_step: called between steps, when everything is whole; its time is on no clock.

    Raises:
        NonFiniteError: the loss is not finite; the weights are those of before that step.
    """
    tally = session.tally
    iterator = iter(batches)
    while tally.step < last_step:
        start = time.perf_counter()
        batch = next(iterator, None)
        ready = time.perf_counter()
        tally.data_s += ready - start
        if batch is None:
            return
        learning_rate = rate(session.optimizer)
        loss, correct = train_step(session, *batch, amp=amp, label_smoothing=label_smoothing)
        seconds = time.perf_counter() - ready
        if session.compiles:  # once in a process, whatever the length of the training
            tally.compile_s += seconds
            session.compiles = False
        else:
            tally.train_s += seconds
            tally.timed_steps += 1
        tally.add_step(loss=loss, correct=correct, images=len(batch[1]), learning_rate=learning_rate)
        after_step()


def train_step(
    session: Session, images: Tensor, labels: Tensor, *, amp: str, label_smoothing: float
) -> tuple[float, int]:
    """Do one step, and return its loss and the number of images that were classified rightly.

    Raises NonFiniteError as `train_epoch` does.
    """
    with autocast(amp):
        logits = session.call(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss of step {session.tally.step + 1} is {value} (learning rate {rate(session.optimizer):.3g}): "
            "lower --learning-rate, or choose another network or --optimizer"
        )
    session.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    session.optimizer.step()
    session.scheduler.step()
    if session.applied is not None:
        session.applied.step(value)
    return value, int((logits.detach().argmax(dim=1) == labels).sum())
