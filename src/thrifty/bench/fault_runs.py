"""Small trainings in processes of their own, made to be killed, starved and cut off; and what became of them.

Processes are forked from a server that has torch and thrifty loaded but has computed nothing, so one costs a fraction
of a second and a kill may fall on any moment of its training.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.core.errors import ThriftyError

NAN_AT, KILL_AT = "THRIFTY_FAULTS_NAN_AT", "THRIFTY_FAULTS_KILL_AT"
STARVE_AT, MORE_BYTES = "THRIFTY_FAULTS_STARVE_AT", "THRIFTY_FAULTS_MORE_BYTES"
_WAIT_S = 300.0
_KILLED = (-signal.SIGKILL, -signal.SIGALRM)
_PRELOADED = (
    "thrifty.bench.fault_net", "thrifty.train", "thrifty.reuse", "thrifty.lsh", "torch.distributed",
    "thrifty.data.load", "thrifty.data.imagefolder", "PIL.PngImagePlugin",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a training process left.

    Attributes:
        code: 0 finished, 1 ended with a message, 2 ended without one that a user could act on, -9 killed.
        message: what it said.
        began_at: the step that it went on after; 0 when it began anew, None when there was nothing left to do.
    """

    code: int
    message: str
    began_at: int | None


@dataclass(frozen=True)
class Limits:
    """What a process may not have; None is no limit.

    Attributes:
        file_bytes: size of the largest file that it can write.
        starve_at: the training step whose batch becomes too large for `more_bytes`.
        more_bytes: address space that it gets in that step, beyond what it has.
        nan_at: the training step whose batch gets a NaN.
        kill_at: the training step in which it kills itself.
        kill_in_update: which writing into hash tables, counted from 1, it is killed in, and the seconds into it.
    """

    file_bytes: int | None = None
    starve_at: int | None = None
    more_bytes: int | None = None
    nan_at: int | None = None
    kill_at: int | None = None
    kill_in_update: tuple[int, float] | None = None


def start(
    settings: dict[str, Any], limits: Limits, answer: Path, environment: dict[str, str] | None = None
) -> multiprocessing.process.BaseProcess:
    """Begin a training in a process of its own, which writes how it ended to `answer`; under these variables."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(target=_child, args=(settings, limits, str(answer), environment or {}))
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess, answer: Path) -> Told:
    """Wait for a process and return what it told; one that hangs is killed and counts as one without a message."""
    process.join(_WAIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return Told(2, "it hung", 0)
    if not answer.exists():
        code = process.exitcode
        return Told(-9 if code in _KILLED else 2, f"it ended with code {code} and no word", 0)
    told = Told(**json.loads(answer.read_text(encoding="utf-8")))
    answer.unlink()
    return told


def complete(settings: dict[str, Any], answer: Path, limits: Limits | None = None) -> Told:
    """Begin a training and wait for its end."""
    return finish(start(settings, limits or Limits(), answer), answer)


def kill_after(process: multiprocessing.process.BaseProcess, seconds: float) -> None:
    """SIGKILL a process after so many seconds, if it still lives."""
    time.sleep(seconds)
    process.kill()


def saved_steps(out: Path, arm: str) -> int:
    """The last step that the run in `out` said to be saved: the length of its file of losses, and its whole epochs."""
    losses = out / "losses" / f"{arm}.npy"
    return len(np.load(losses)) if losses.exists() else 0


def outcome(out: Path, arm: str) -> tuple[bytes, bytes] | None:
    """Weights and losses of a finished run as bytes; None where it has none."""
    from thrifty.train import load_weights

    losses = out / "losses" / f"{arm}.npy"
    try:
        weights = load_weights(out, arm)
    except ThriftyError:
        return None
    joined = b"".join(key.encode() + value.contiguous().numpy().tobytes() for key, value in weights.items())
    return joined, np.load(losses).tobytes() if losses.exists() else b""


def write_images(path: Path) -> None:
    """Write an ImageFolder zip of 60 + 18 grey images 8 x 8 of 3 classes that differ in which rows are bright."""
    import zipfile

    from PIL import Image

    noise = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("train", 20), ("test", 6)):
            for label in range(3):
                for number in range(count):
                    pixels = noise.integers(0, 120, (8, 8), dtype=np.uint8)
                    pixels[label * 2 : label * 2 + 3] += 80
                    stream = io.BytesIO()
                    Image.fromarray(pixels).save(stream, "PNG")
                    archive.writestr(f"{split}/class{label}/{number:03}.png", stream.getvalue())


def flip(content: bytes, draw: random.Random) -> bytes:
    """The content with one to three bits turned over."""
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut(content: bytes, draw: random.Random) -> bytes:
    """The content without its end."""
    return content[: draw.randrange(len(content))]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {"cut off": cut, "bit flipped": flip}


def _child(settings: dict[str, Any], limits: Limits, answer: str, environment: dict[str, str]) -> None:
    """Train as `thrifty train` does, and write what the command line would say."""
    from rich.console import Console

    from thrifty.train import TrainConfig, run

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    wanted = {
        NAN_AT: limits.nan_at, KILL_AT: limits.kill_at, STARVE_AT: limits.starve_at, MORE_BYTES: limits.more_bytes,
    }  # fmt: skip
    os.environ.update({name: str(value or 0) for name, value in wanted.items()}, **environment)
    if limits.kill_in_update is not None:
        _kill_in_update(*limits.kill_in_update)
    shown = io.StringIO()
    try:
        with _limited(limits):
            ended = run(TrainConfig(**settings), console=Console(file=shown, width=200))
        messages = [arm["message"] for arm in ended.record["arms"] if arm["message"]]
        code, message = ended.exit_code, "; ".join(messages)
    except (ThriftyError, OSError, MemoryError) as error:  # the command line makes one line of these
        code, message = 1, str(error) or type(error).__name__
    except Exception as error:
        code, message = 2, f"{type(error).__name__}: {error}"
    if code == 1 and (not message or "\n" in message):
        code = 2
    after = re.findall(r"going on after step (\d+)", shown.getvalue())
    done = "finished before" in shown.getvalue()
    told = Told(code, message, None if done else int(after[-1]) if after else 0)
    Path(answer).write_text(json.dumps(vars(told)), encoding="utf-8")


def _kill_in_update(which: int, seconds: float) -> None:
    """End this process so long after the beginning of an update of hash tables, by a signal that needs no Python."""
    from thrifty.lsh import index

    update, begun = index.table_update, 0

    def observed(*arguments: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == which:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        update(*arguments)

    index.table_update = observed  # type: ignore[assignment]  # it passes on whatever it is given


class _limited:
    """Within `with`, the process is under `limits`; soft ones, so that it can tell of it afterwards."""

    def __init__(self, limits: Limits) -> None:
        self._file_bytes = limits.file_bytes
        self._before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS)}

    def __enter__(self) -> None:
        if self._file_bytes is not None:
            kind = resource.RLIMIT_FSIZE
            resource.setrlimit(kind, (self._file_bytes, self._before[kind][1]))

    def __exit__(self, *exception: object) -> None:
        for kind, before in self._before.items():
            resource.setrlimit(kind, before)


def starve(more_bytes: int) -> None:
    """Let this process have so many bytes of address space beyond those it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
