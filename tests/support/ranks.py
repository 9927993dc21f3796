"""Several local processes that make one group of gloo, for tests: `run_ranks(3, function, *arguments)`.

They are forked from a server that has imported torch once, so that a group costs a fraction of a second. The function
must live in a module beside this one. Answers come through files, of any size: a queue would have to be emptied before
its processes can end.
"""

import faulthandler
import gc
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

TIMEOUT_S = 90.0
DIED = "died"


def run_ranks(
    ranks: int, function: Callable[..., Any], *arguments: Any, join: bool = True, may_die: bool = False
) -> list[Any]:
    """Call `function(*arguments)` on every rank of a new group; return the answers by rank, or fail with an error.

    Args:
        ranks: how many processes.
        function: finds its rank in the environment, as under torchrun, and in torch.distributed.
        arguments: what can be pickled.
        join: whether to join the group before; else that is left to the function.
        may_die: whether a process may end without an answer, which is then `DIED`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "thrifty.train", "thrifty.distributed"])
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run, args=(rank, ranks, folder, join, function, arguments)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        end = time.monotonic() + 2 * TIMEOUT_S
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        assert not hung, f"ranks {hung} did not end"
        return [
            _answer(Path(folder) / f"{rank}.pt", process.exitcode, may_die) for rank, process in enumerate(processes)
        ]


def _run(
    rank: int, ranks: int, folder: str, join: bool, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    gc.freeze()  # what the server imported is no garbage, and looking through it takes long
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    faulthandler.dump_traceback_later(0.9 * TIMEOUT_S, exit=True)  # says where it waits, before the others give it up
    timeout = timedelta(seconds=TIMEOUT_S)
    if join:  # a file needs no free port
        place = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks, timeout=timeout)
    try:
        answer = ("returned", function(*arguments))
    except BaseException:
        answer = ("raised", traceback.format_exc())
    part = Path(folder) / f"{rank}.part"
    torch.save(answer, part)
    part.rename(part.with_suffix(".pt"))
    os._exit(0)  # a group whose members are gone cannot be taken down in order


def _answer(path: Path, code: int | None, may_die: bool) -> Any:
    import torch

    if not path.exists() and may_die:
        return DIED
    assert path.exists(), f"a rank ended with {code} and no answer"
    what, value = torch.load(path, weights_only=False)
    assert what == "returned", value
    return value
