"""Small trainings by several processes, as torchrun starts them, to be broken by the loss of one.

Torchrun keeps the meeting point of its workers in a process of its own, over restarts of the group; here it is the
drill's. When a worker is lost torchrun ends the others and starts all again; here the others are waited for, since they
should end by themselves, with a word.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from thrifty.bench.fault_runs import Limits, Told, finish, start

WORKERS = 2


def complete_group(
    settings: dict[str, Any], answers: Path, *, attempt: int, kill: tuple[int, float] | None = None
) -> list[Told]:
    """Train with `WORKERS` processes and wait for all; return what each told, by rank.

    Args:
        settings: of `thrifty train`.
        answers: folder for what they tell.
        attempt: how often the group was started before.
        kill: a rank, and the seconds after which it gets a SIGKILL.
    """
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(WORKERS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }  # fmt: skip
    files = [answers / f"answer-{rank}.json" for rank in range(WORKERS)]
    processes = [
        start(settings, Limits(), file, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, file in enumerate(files)
    ]
    if kill is not None:
        rank, seconds = kill
        time.sleep(seconds)
        processes[rank].kill()
    return [finish(process, file) for process, file in zip(processes, files, strict=True)]
