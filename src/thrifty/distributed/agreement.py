"""Processes that agree, or all hear why not: small texts exchanged through the group's store, within a time limit.

The store, unlike a collective, can say who is missing. The first rank of the group collects and publishes, so the work
is linear in the number of processes. That is for the time before a training; inside its steps, where only numbers are
agreed on and every millisecond counts, `core.lockstep` uses collectives.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import ProcessGroup

from thrifty.core.errors import DistributedError, UsageError

Result = TypeVar("Result")

_calls: Counter[str] = Counter()
_WAIT_FOR_FIRST = 1.5
"""Others wait longer than the first rank does, so that its verdict on who is missing reaches them."""


def members(group: ProcessGroup | None) -> list[int]:
    """Global ranks of the group that this process is in.

    Raises:
        UsageError: there is no process group, this process is not in it, or it is alone.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise UsageError(
            "there is no process group: start the processes with torchrun --nproc-per-node 2 ..., and call "
            "thrifty.distributed.join() in each"
        )
    ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
    if dist.get_rank() not in ranks:
        raise UsageError(f"process {dist.get_rank()} is not in the group of ranks {ranks}")
    if len(ranks) == 1:
        raise UsageError(
            "a world of one process sends no gradients: start more with torchrun --nproc-per-node, or leave the "
            "distributed part out"
        )
    return ranks


def exchange(what: str, text: str, group: ProcessGroup | None, timeout_s: float) -> list[str]:
    """Give `text` to all processes of the group and return those of all, in the order of ranks.

    Args:
        what: names the exchange, the same on all processes; for messages.
        text: of this process.
        group: the processes; all of the world where None.
        timeout_s: seconds after which those that did not answer are named.

    Raises:
        DistributedError: on every process that is left, when one does not answer in time.
    """
    ranks = members(group)
    store, key = _store(), _key(what, ranks)
    me = dist.get_rank()
    if me == ranks[0]:
        texts, missing = _collect(store, key, ranks, text, what, timeout_s)
        _reach(lambda: store.set(f"{key}/all", json.dumps({"texts": texts, "missing": missing})), what)
    else:
        _reach(lambda: store.set(f"{key}/{me}", text), what)
        answer = json.loads(_await(store, f"{key}/all", ranks[0], what, timeout_s * _WAIT_FOR_FIRST))
        texts, missing = answer["texts"], answer["missing"]
    if missing:
        raise DistributedError(
            f"{_ranks(missing)} did not answer within {timeout_s:g} s while processes agreed on {what}: look at the "
            "output of these processes"
        )
    return list(texts)


def from_first(what: str, make: Callable[[], str], group: ProcessGroup | None, timeout_s: float) -> str:
    """Return what `make` gives on the first rank, on every process; it is called there alone. Errors as `exchange`.

    A ThriftyError that `make` raises is raised on the first rank, and as DistributedError on the others.
    """
    ranks = members(group)
    store, key = _store(), _key(what, ranks)
    if dist.get_rank() == ranks[0]:
        answer: dict[str, Any] = {}
        try:
            answer["text"] = make()
        except Exception as error:
            answer["error"] = str(error)
            raise
        finally:
            if answer:
                _reach(lambda: store.set(f"{key}/all", json.dumps(answer)), what)
        return str(answer["text"])
    answer = json.loads(_await(store, f"{key}/all", ranks[0], what, timeout_s * _WAIT_FOR_FIRST))
    if "error" in answer:
        raise DistributedError(f"rank {ranks[0]}: {answer['error']}")
    return str(answer["text"])


def check_same(what: str, lines: Sequence[str], group: ProcessGroup | None, timeout_s: float) -> None:
    """Make sure that all processes hold the same `lines`.

    Raises:
        DistributedError: on every process, naming the first line in which one differs from the first rank's; or as
            `exchange` does.
    """
    ranks = members(group)
    digests = exchange(what, hashlib.sha256("\n".join(lines).encode()).hexdigest(), group, timeout_s)
    if len(set(digests)) == 1:
        return
    other = next(i for i, digest in enumerate(digests) if digest != digests[0])
    held = exchange(f"{what}, in full", json.dumps(list(lines)), group, timeout_s)
    mine, theirs = json.loads(held[0]), json.loads(held[other])
    at = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        difference = f"{len(mine)} entries and {len(theirs)}"
    else:
        difference = f"{mine[at]} and {theirs[at]}"
    raise DistributedError(
        f"ranks {ranks[0]} and {ranks[other]} differ in {what}: {difference}; start all processes from the same "
        "program and settings"
    )


def reached(call: Callable[[], Result], what: str) -> Result:
    """Return what `call`, some collectives, returns. Raises DistributedError when a process is gone."""
    return _reach(call, what)


def _collect(
    store: dist.Store, key: str, ranks: Sequence[int], text: str, what: str, timeout_s: float
) -> tuple[list[str], list[int]]:
    others = [f"{key}/{rank}" for rank in ranks[1:]]
    try:
        store.wait(others, timedelta(seconds=timeout_s))
    except dist.DistStoreError:
        missing = [rank for rank in ranks[1:] if not _reach(lambda rank=rank: store.check([f"{key}/{rank}"]), what)]  # type: ignore[misc]
        if missing:
            return [], missing
    except RuntimeError as error:
        raise _gone(what, error) from error
    return [text, *(_reach(lambda name=name: store.get(name), what).decode() for name in others)], []  # type: ignore[misc]


def _await(store: dist.Store, name: str, rank: int, what: str, timeout_s: float) -> str:
    try:
        store.wait([name], timedelta(seconds=timeout_s))
        return str(store.get(name).decode())
    except dist.DistStoreError:
        raise DistributedError(
            f"rank {rank} did not answer within {timeout_s:g} s while processes agreed on {what}: look at the output "
            "of that process"
        ) from None
    except RuntimeError as error:
        raise _gone(what, error) from error


def _reach(call: Callable[[], Result], what: str) -> Result:
    try:
        return call()
    except RuntimeError as error:
        raise _gone(what, error) from error


def _gone(what: str, error: RuntimeError) -> DistributedError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DistributedError(
        f"a process of the group is gone or does not answer ({what}): look at the output of the others; torch says: "
        f"{first[:200]}"
    )


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _key(what: str, ranks: Sequence[int]) -> str:
    # The same name may be agreed on again, so each process counts; they call in the same order.
    name = f"thrifty/{what}/{'-'.join(map(str, ranks)) if len(ranks) < dist.get_world_size() else 'world'}"
    _calls[name] += 1
    return f"{name}/{_calls[name]}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
