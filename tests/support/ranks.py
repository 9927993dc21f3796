"""Local processes of a gloo group for tests: start them, run a function of a support module in each, collect."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

LIMIT_S = 120.0


def run_ranks(call: Callable[..., Any], world: int, folder: Path, *args: Any, join: bool = True) -> list[Any]:
    """What `call(rank, *args)` returns in each of `world` processes of a group; "died" for one that leaves no result.

    `call` has to be importable: a function of a module in tests/support. An error in it fails the test, with its text.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=_main, args=(call, rank, world, str(folder), answers, join, args), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        for process in processes:
            process.join(LIMIT_S)
            assert process.exitcode is not None, "a process hangs"
        while not answers.empty():
            rank, failure, answer = answers.get()
            assert not failure, f"rank {rank}:\n{failure}"
            found[rank] = answer
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return [found.get(rank, "died") for rank in range(world)]


def _main(
    call: Callable[..., Any], rank: int, world: int, folder: str, answers: Any, join: bool, args: tuple[Any, ...]
) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    try:
        if join:
            # A file needs no free port; it must not exist before.
            dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
        answers.put((rank, "", call(rank, *args)))
    except BaseException:
        answers.put((rank, traceback.format_exc(), None))
    finally:
        # A group whose members are gone cannot be taken down in order.
        os._exit(0)
