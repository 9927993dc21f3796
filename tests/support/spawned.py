"""Several processes that make one group of gloo, for tests: `run_ranks(3, function, *arguments)`.

They are forked from a server that has imported torch once, so that a group costs a fraction of a second. The function
must live in a module beside this one.
"""

import faulthandler
import gc
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

TIMEOUT_S = 90.0


def run_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` on every rank of a new group; return the answers by rank, or the first error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "thrifty.train", "thrifty.distributed"])
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run, args=(rank, ranks, folder, function, arguments)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(2 * TIMEOUT_S)
        hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        assert not hung, f"ranks {hung} did not end"
        return [_answer(Path(folder) / f"{rank}.pt", process.exitcode) for rank, process in enumerate(processes)]


def _run(rank: int, ranks: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    gc.freeze()  # what the server imported is no garbage, and looking through it takes long
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(0.9 * TIMEOUT_S, exit=True)  # says where it waits, before the others give it up
    timeout = timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=timeout)
    try:
        answer = ("returned", function(*arguments))
    except BaseException:
        answer = ("raised", traceback.format_exc())
    torch.save(answer, Path(folder) / f"{rank}.pt")
    if answer[0] == "returned":
        dist.destroy_process_group()


def _answer(path: Path, code: int | None) -> Any:
    import torch

    assert path.exists(), f"a rank ended with {code} and no answer"
    what, value = torch.load(path, weights_only=False)
    assert what == "returned", value
    return value
