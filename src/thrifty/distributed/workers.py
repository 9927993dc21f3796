"""The processes that train one model together, as `torchrun` starts them: joining, agreeing, and ending with an error.

Everything here is a call that all workers make, in the same order. Alone, every call is free and nothing is imported.
A worker that is lost becomes a `DistributedError` on all others, at once when its connection breaks and after
`timeout_s` in any case.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from thrifty.core.errors import DistributedError, ModelError, ThriftyError, UsageError
from thrifty.core.lockstep import lost
from thrifty.distributed.group import VARIABLES, join

T = TypeVar("T")
TIMEOUT_S = 600.0
_MARKS = ("Connection closed by peer", "Connection reset", "Broken pipe", "Timed out waiting", "gloo", "NCCL")


@dataclass(frozen=True)
class Workers:
    """The group that this process is in.

    Attributes:
        rank: 0 to size - 1; 0 is the one that reports.
        size: how many there are.
        group: for torch's collectives; None alone.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the worker that reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element by element over all workers, in float64."""
        return self.start_sum(values)()

    def start_sum(self, values: Sequence[float]) -> Callable[[], list[float]]:
        """Begin to sum, and return the call that waits for the sums: work in between hides the latency."""
        if self.group is None:
            given = list(values)
            return lambda: given
        tensor = torch.tensor(values, dtype=torch.float64)
        with lost("a sum"):
            work = dist.all_reduce(tensor, group=self.group, async_op=True)

        def wait() -> list[float]:
            with lost("a sum"):
                work.wait()
            return [float(value) for value in tensor]

        return wait

    def gather(self, value: T) -> list[T]:
        """Every worker's `value`, by rank, on all of them."""
        if self.group is None:
            return [value]
        found: list[T] = [value] * self.size
        with lost("a gather"):
            dist.all_gather_object(found, value, group=self.group)
        return found

    def only_first(self, call: Callable[[], T]) -> T:
        """Have worker 0 make a call, and return or raise on all workers what it returned or raised there."""
        if self.group is None:
            return call()
        answer: list[tuple[T | None, BaseException | None]] = [(None, None)]
        if self.first:
            try:
                answer = [(call(), None)]
            except (ThriftyError, OSError) as failure:
                answer = [(None, _plain(failure))]
        with lost("a broadcast"):
            dist.broadcast_object_list(answer, group_src=0, group=self.group)
        value, error = answer[0]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def everywhere(self, call: Callable[[], T]) -> T:
        """Make a call on all workers; where it fails on one, the others raise too instead of waiting for it."""
        if self.group is None:
            return call()
        value, failure = None, None
        try:
            value = call()
        except (ThriftyError, OSError) as raised:
            failure = raised
        found = self.gather(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, message in enumerate(found):
            if message is not None:
                raise DistributedError(f"worker {rank} of {self.size} stopped: {message}")
        return value  # type: ignore[return-value]

    def sync_buffers(self, model: nn.Module) -> None:
        """Give every worker the buffers of worker 0: running statistics differ between them."""
        if self.group is not None:
            with lost("a broadcast"):
                for buffer in model.buffers():
                    dist.broadcast(buffer, group_src=0, group=self.group)


ALONE = Workers()


@contextmanager
def joined(timeout_s: float = TIMEOUT_S) -> Iterator[Workers]:
    """Join the group that torchrun, or whoever set its variables, describes; leave it at the end.

    A group that is there already is used, and stays. Without the variables, and for a world of one, nothing is joined.

    Args:
        timeout_s: after which a call that not all workers make is given up.

    Raises:
        UsageError: variables that cannot be meant.
        DistributedError: worker 0 cannot be reached, its port is taken, or workers run different versions of torch.
    """
    if dist.is_available() and dist.is_initialized():
        yield _of_default_group()
        return
    size = _size_wanted()
    if size == 1:
        yield ALONE
        return
    join(backend="gloo", timeout_s=timeout_s)
    try:
        yield _of_default_group()
    finally:
        dist.destroy_process_group()


def _size_wanted() -> int:
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return 1
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    size, rank = os.environ["WORLD_SIZE"], os.environ["RANK"]
    if not (size.isdigit() and rank.isdigit() and int(rank) < int(size)):
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={size} are set, and name no worker: start with torchrun, or unset"
        )
    if int(size) > 1 and missing:
        raise UsageError(f"WORLD_SIZE={size} is set but not {', '.join(missing)}: start with torchrun, or unset it")
    return int(size)


def _of_default_group() -> Workers:
    if dist.get_world_size() == 1:
        return ALONE
    return Workers(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


@contextmanager
def exchanging(workers: Workers) -> Iterator[None]:
    """Forward and backward passes inside exchange buffers and gradients: a worker lost there is told in one line.

    Raises:
        DistributedError: in place of what the backend raises; other errors stay as they are.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if workers.group is None or not any(mark in text for mark in _MARKS):
            raise
        raise DistributedError(
            f"a worker was lost during the exchange of gradients ({text.splitlines()[0]}): see what the others say"
        ) from error


def check_gradients(model: nn.Module) -> None:
    """Make sure that a backward pass under DistributedDataParallel gave every trainable parameter its gradient.

    Where one is missing, its bucket was never exchanged, and the gradients in it are this worker's alone.

    Raises:
        ModelError: naming the first one.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ModelError(
                f"the parameter {name!r} took no part in the loss, and the workers wait for its gradient: "
                "freeze it with requires_grad_(False), or use it"
            )


def _plain(error: BaseException) -> BaseException:
    """The error as one that can travel; its cause stays here."""
    try:
        pickle.dumps(error)
    except Exception:
        return DistributedError(str(error))
    return error
