"""What is lost when a machine fails: trainings killed, starved of disk and memory, files cut off and bits turned over.

Each try is judged by three counts, which should be 0; see `fault_drill`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.bench.fault_drill import EPOCHS, LSH, REUSE, STEPS_PER_EPOCH, Count, Drill
from thrifty.bench.registry import BenchResult, benchmark

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.bench.fault_runs import Limits

TRIES, QUICK_TRIES = 100, 6
_UPDATES, _UPDATE_S = 11, 1e-3  # tables are written in the first step and in every second one, each in a millisecond
_WORKER_TIMEOUT_S = 60.0
_STATE_FILES = ("last.pt", "previous.pt")
# A checkpoint has 46 kB, and three of them stand side by side while one is written.
_LEAST_DISK_BYTES, _MOST_DISK_BYTES, _ROOM_BYTES = 1 << 14, 150_000, 1 << 26
_MOST_MEMORY_BYTES = 300_000_000  # the starved step wants more than twice as much


def _killed(drill: Drill) -> None:
    from thrifty.bench.fault_runs import Limits, finish, kill_after, saved_steps, start

    settings = drill.settings("killed")
    _, whole_s = drill.whole(settings)
    process = start(settings, Limits(), drill.answer)
    kill_after(process, drill.draw.uniform(0, whole_s))
    drill.judge_end(finish(process, drill.answer).code)
    drill.judge_resumed(settings, saved_steps(Path(settings["out"]), REUSE))


def _killed_in_update(drill: Drill) -> None:
    from thrifty.bench.fault_runs import Limits, complete, saved_steps

    settings = drill.settings("tables", LSH)
    limits = Limits(kill_in_update=(drill.draw.randint(1, _UPDATES), drill.draw.uniform(0, _UPDATE_S)))
    told = complete(settings, drill.answer, limits)
    assert told.code == -9, told  # else the fault did not happen
    drill.judge_resumed(settings, saved_steps(Path(settings["out"]), LSH))


def _killed_worker(drill: Drill) -> None:
    from thrifty.bench.fault_group import WORKERS, complete_group
    from thrifty.bench.fault_runs import saved_steps

    settings = drill.settings("group", worker_timeout=_WORKER_TIMEOUT_S)
    whole, whole_s = drill.whole(settings, group=True)
    lost = drill.draw.randrange(WORKERS)
    broken = complete_group(settings, drill.folder, attempt=0, kill=(lost, drill.draw.uniform(0, whole_s)))
    for told in broken:
        drill.judge_end(told.code)
    saved = saved_steps(Path(settings["out"]), REUSE)
    drill.judge_outcome(settings, complete_group(settings, drill.folder, attempt=1), saved, whole)


def _full_disk(drill: Drill) -> None:
    from thrifty.bench.fault_runs import complete, saved_steps

    settings = drill.settings("full")
    with _small_disk(Path(settings["out"]), drill.draw.randrange(_LEAST_DISK_BYTES, _MOST_DISK_BYTES)) as (
        limits,
        relax,
    ):
        drill.judge_end(complete(settings, drill.answer, limits).code)
        relax()
        drill.judge_resumed(settings, saved_steps(Path(settings["out"]), REUSE))


@contextmanager
def _small_disk(place: Path, size_bytes: int) -> Iterator[tuple[Limits, Callable[[], object]]]:
    """A file system of so many bytes at `place` where this user may mount one; else a limit on the size of files."""
    from thrifty.bench.fault_runs import Limits

    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if shutil.which("mount") and _quietly([*mount, f"size={size_bytes}", "tmpfs", str(place)]) == 0:
        try:
            yield Limits(), lambda: _quietly([*mount, f"remount,size={_ROOM_BYTES}", "tmpfs", str(place)])
        finally:
            _quietly(["umount", str(place)])
            shutil.rmtree(place, ignore_errors=True)
    else:
        yield Limits(file_bytes=size_bytes // 4), lambda: None


def _quietly(words: list[str]) -> int:
    return subprocess.run(words, capture_output=True).returncode


def _checkpoint(how: str) -> Callable[[Drill], None]:
    def damage(drill: Drill) -> None:
        from thrifty.bench.fault_runs import DAMAGES, Limits, complete, outcome, saved_steps

        paused = drill.folder / "paused"
        if not paused.exists():
            complete(drill.settings("paused"), drill.answer, Limits(kill_at=STEPS_PER_EPOCH + 4))
        settings = drill.settings("damaged")
        out = Path(shutil.copytree(paused, settings["out"]))
        both = drill.draw.random() < 0.2
        for name in _STATE_FILES[: 2 if both else 1]:
            path = out / "checkpoints" / REUSE / name
            path.write_bytes(DAMAGES[how](path.read_bytes(), drill.draw))
        told = complete({**settings, "resume": True}, drill.answer)
        drill.judge_end(told.code)
        # With one damaged the one before is good, and it is a step older; with both, nothing may be gone on from.
        drill.count.lost += not both and (told.code != 0 or (told.began_at or 0) < saved_steps(paused, REUSE) - 1)
        drill.count.wrong += told.code == 0 and outcome(out, REUSE) != drill.whole(settings)[0]
        shutil.rmtree(out)

    return damage


def _data_set(how: str) -> Callable[[Drill], None]:
    def damage(drill: Drill) -> None:
        from thrifty.bench.fault_runs import DAMAGES
        from thrifty.core.errors import DataError
        from thrifty.data import load_images

        load, path = drill.draw.choice(_data_files(drill.folder))
        good, content = load_images(load), path.read_bytes()
        path.write_bytes(DAMAGES[how](content, drill.draw))
        try:
            data = load_images(load)
            same = all(
                (one.images.shape == other.images.shape) and bool((one.images == other.images).all())
                and bool((one.labels == other.labels).all())
                for one, other in ((good.train, data.train), (good.test, data.test))
            )  # fmt: skip
            drill.count.wrong += not same or good.classes != data.classes
        except DataError as error:
            drill.count.unclear += "\n" in str(error)
        except Exception:
            drill.count.unclear += 1
        path.write_bytes(content)

    return damage


def _data_files(folder: Path) -> list[tuple[Path, Path]]:
    """What to load and which file of it to damage: the formats whose every byte is under a checksum."""
    import numpy as np

    from thrifty.data import write_idx

    idx = folder / "idx"
    if not idx.exists():
        idx.mkdir()
        noise = np.random.default_rng(0)
        for split, count in (("train", 24), ("t10k", 12)):
            pixels = noise.integers(0, 256, (count, 6, 5)).astype(np.uint8)
            write_idx(idx / f"{split}-images-idx3-ubyte.gz", pixels)
            write_idx(idx / f"{split}-labels-idx1-ubyte.gz", (np.arange(count) % 3).astype(np.uint8))
    zipped = folder / "images.zip"
    return [(zipped, zipped), *((idx, path) for path in sorted(idx.iterdir()))]


def _nan(drill: Drill) -> None:
    import numpy as np

    from thrifty.bench.fault_runs import Limits, complete, saved_steps

    settings = drill.settings("nan")
    at = drill.draw.randint(1, EPOCHS * STEPS_PER_EPOCH)
    told = complete(settings, drill.answer, Limits(nan_at=at))
    out = Path(settings["out"])
    drill.judge_end(told.code)
    drill.count.lost += saved_steps(out, REUSE) < at - 1
    losses = out / "losses" / f"{REUSE}.npy"
    found = np.load(losses).tobytes() if losses.exists() else b""
    _, whole_losses = drill.whole(settings)[0]
    # What is not a number must be told in the step that it came in, and nothing of it may be kept.
    drill.count.wrong += told.code == 0 or f"step {at} " not in told.message or not whole_losses.startswith(found)
    shutil.rmtree(out)


def _memory(drill: Drill) -> None:
    from thrifty.bench.fault_runs import Limits, complete, saved_steps

    settings = drill.settings("memory")
    at = drill.draw.randint(1, EPOCHS * STEPS_PER_EPOCH)
    limits = Limits(starve_at=at, more_bytes=drill.draw.randrange(_MOST_MEMORY_BYTES))
    drill.judge_end(complete(settings, drill.answer, limits).code)
    drill.judge_resumed(settings, saved_steps(Path(settings["out"]), REUSE))


# fault -> one try of it; a try adds to `drill.count`
FAULTS: dict[str, Callable[[Drill], None]] = {
    "killed": _killed,
    "killed in a table update": _killed_in_update,
    "worker killed": _killed_worker,
    "disk full": _full_disk,
    "checkpoint cut off": _checkpoint("cut off"),
    "checkpoint bit flipped": _checkpoint("bit flipped"),
    "data set cut off": _data_set("cut off"),
    "data set bit flipped": _data_set("bit flipped"),
    "NaN in a batch": _nan,
    "out of memory": _memory,
}


@dataclass(frozen=True)
class Options:
    """What `--set` may choose: which faults, how many tries of each, from which seed."""

    faults: tuple[str, ...] = tuple(FAULTS)
    tries: int = 0
    seed: int = 0


@benchmark("faults", "trainings killed, starved and cut off: what is lost, wrong or unclear afterwards")
def run(quick: bool, console: Console, options: tuple[str, ...] = ()) -> BenchResult:
    """Try every fault so many times, and count."""
    from thrifty.bench.options import read_options
    from thrifty.core.errors import UsageError

    chosen, _ = read_options(Options, options)
    unknown = [name for name in chosen.faults if name not in FAULTS]
    if unknown:
        raise UsageError(f"--set faults: no fault is called {unknown[0]!r} (there are: {', '.join(FAULTS)})")
    tries = chosen.tries or (QUICK_TRIES if quick else TRIES)
    rows = []
    with tempfile.TemporaryDirectory(prefix="thrifty-faults-") as folder:
        drill = Drill(Path(folder), tries, chosen.seed)
        _, whole_s = drill.whole(drill.settings("whole"))
        console.print(f"an unbroken run takes {whole_s:.2f} s; {tries} tries of each fault")
        for name in chosen.faults:
            drill.count = Count()
            for _ in range(tries):
                FAULTS[name](drill)
                drill.count.tries += 1
            rows.append({"fault": name, **vars(drill.count)})
            console.print(f"{name}: {vars(drill.count)}", markup=False, highlight=False)
    totals = {key: sum(int(row[key]) for row in rows) for key in ("tries", "lost", "wrong", "unclear")}
    return BenchResult({"tries": tries, "seed": chosen.seed, "quick": quick}, rows, totals)
