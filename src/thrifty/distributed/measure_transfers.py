"""What an all-reduce costs on the live group: sizes from 1 KiB up, one and two in flight, within a time limit.

On a CPU the threads that send share the cores with the backward pass, so a transfer beside compute costs more than one
by itself, small ones several times as much: `beside` is computed meanwhile, in a thread of its own.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from thrifty.core.errors import UsageError
from thrifty.distributed.agreement import members, reached
from thrifty.distributed.cost import TransferCost, TransferSample

SMALLEST_BYTES = 2**10
LARGEST_BYTES = 2**26
MOST_REPEATS, LEAST_REPEATS = 15, 3


def measure_transfers(
    *,
    largest_bytes: int = LARGEST_BYTES,
    limit_s: float = 8.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    group: ProcessGroup | None = None,
    timeout_s: float = 60.0,
    beside: Callable[[], Any] | None = None,
) -> TransferCost:
    """Time all-reduces of the live group, and agree on the slowest rank's medians.

    Sizes double from 1 KiB to `largest_bytes`, or to what fits into `limit_s`: above, T goes on as the last two say.

    Args:
        largest_bytes: size of the largest transfer.
        limit_s: seconds to spend, about.
        dtype: of what is sent.
        device: where it lies: a GPU for NCCL.
        group: the processes; all of the world where None.
        timeout_s: seconds that one transfer may take.
        beside: what the process computes while gradients travel, a forward and backward pass for example; called
            again and again meanwhile, in another thread. None leaves the process idle.

    Raises:
        UsageError: no process group, a world of one, or sizes and times that are not positive.
        DistributedError: a process is gone.
        Exception: what `beside` raises.
    """
    members(group)
    if largest_bytes < SMALLEST_BYTES or limit_s <= 0:
        raise UsageError(f"transfers are timed from {SMALLEST_BYTES} bytes on and take some time")
    with _busy(beside):
        return reached(
            lambda: _measure(largest_bytes, limit_s, dtype, torch.device(device), group, timeout_s), "transfers"
        )


@contextmanager
def _busy(call: Callable[[], Any] | None) -> Iterator[None]:
    """Make `call` over and over in another thread; its error, if any, is raised at the end."""
    if call is None:
        yield
        return
    enough = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            while not enough.is_set():
                call()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="compute beside transfers")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if failures:
        raise failures[0]


def default_in_flight(group: ProcessGroup | None) -> int:
    """Transfers that the backend of the group runs at a time: gloo has two threads a group, NCCL one stream."""
    return 2 if dist.get_backend(group) == "gloo" else 1


def _measure(
    largest_bytes: int,
    limit_s: float,
    dtype: torch.dtype,
    device: torch.device,
    group: ProcessGroup | None,
    timeout_s: float,
) -> TransferCost:
    width = torch.empty((), dtype=dtype).element_size()
    limit = timedelta(seconds=timeout_s)
    samples: list[TransferSample] = []
    begun = time.perf_counter()
    size = SMALLEST_BYTES
    while size <= largest_bytes:
        pair = [torch.zeros(size // width, dtype=dtype, device=device) for _ in range(2)]
        # What one round takes decides how many there are; all must decide alike, and the first may pay for set-up.
        _timed(pair, group, limit)
        once = _agreed([_timed(pair, group, limit), time.perf_counter() - begun], device, group)
        left = limit_s - once[1]
        if samples and 4 * once[0] * LEAST_REPEATS > left:
            break
        # A quarter of what is left for each size: half of it for either number in flight.
        repeats = int(max(LEAST_REPEATS, min(MOST_REPEATS, left / (8 * max(once[0], 1e-6)))))
        alone = [_timed(pair[:1], group, limit) for _ in range(repeats)]
        both = [_timed(pair, group, limit) for _ in range(repeats)]
        found = _agreed([statistics.median(alone), statistics.median(both)], device, group)
        samples.append(TransferSample(size, *found))
        size *= 2
    return TransferCost.from_samples(without_dips(samples))


def without_dips(samples: Sequence[TransferSample]) -> list[TransferSample]:
    """Let no transfer cost more than a larger one did: noise only ever adds time, and a dip would be extrapolated.

    Args:
        samples: in order of size.
    """
    kept: list[TransferSample] = []
    for sample in reversed(samples):
        if kept:
            sample = TransferSample(
                sample.size_bytes, min(sample.alone_s, kept[-1].alone_s), min(sample.both_s, kept[-1].both_s)
            )
        kept.append(sample)
    return kept[::-1]


def _timed(tensors: list[Tensor], group: ProcessGroup | None, limit: timedelta) -> float:
    """Seconds of all-reduces that start together, from a moment at which all processes are there."""
    meet = torch.zeros(1, device=tensors[0].device)
    _wait([_begin(meet, group)], limit, meet.device)
    start = time.perf_counter()
    _wait([_begin(tensor, group) for tensor in tensors], limit, meet.device)
    return time.perf_counter() - start


def _begin(tensor: Tensor, group: ProcessGroup | None) -> dist.Work:
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None  # None is for processes outside of the group
    return work


def _wait(works: list[dist.Work], limit: timedelta, device: torch.device) -> None:
    for work in works:
        work.wait(limit)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _agreed(numbers: list[float], device: torch.device, group: ProcessGroup | None) -> list[float]:
    held = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX, group=group)
    found: list[float] = held.cpu().tolist()
    return found
