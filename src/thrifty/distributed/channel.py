"""A channel: a thread that makes the collectives of one bucket after another, while the backward pass goes on.

Gloo matches collectives by the order in which each rank begins them. Exchanges of several steps, begun in callbacks of
each other, would come in an order of chance; here they come in the order in which buckets are submitted, which is the
same on all ranks, on a process group that nothing else uses.
"""

import queue
import threading
from collections.abc import Callable

import torch
from torch import Tensor

Task = tuple[Callable[[], Tensor], "torch.futures.Future[Tensor]"]


class Channel:
    """Runs what is submitted, in order, in a thread of its own; `close` ends it."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Tensor]) -> "torch.futures.Future[Tensor]":
        """Have `call` made, and return the future of its tensor or error."""
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        self._tasks.put((call, future))
        return future

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            call, future = task
            try:
                future.set_result(call())
            except Exception as error:  # it belongs to whoever waits for the future
                future.set_exception(error)  # type: ignore[arg-type]  # torch's stub asks for the result's type
            del task, call, future  # or the last bucket would live until the next one comes


def on_stream(call: Callable[[], Tensor], stream: torch.cuda.Stream, device: torch.device) -> "torch.futures.Future":
    """Make `call` at once on a stream beside the backward pass's: what a channel is to gloo, a stream is to NCCL."""
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[device])
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        future.set_result(call())
    return future
