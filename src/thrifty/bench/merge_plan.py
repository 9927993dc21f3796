"""Merge rules on real networks: the model's step beside the measured one, two gloo processes with a link between them.

The link is shaped with network namespaces where this may be done (see `link`), else it is the loopback device, and the
settings say which and why. Each process has one thread. Sizes of images and batches are such that on two CPU cores the
fp32 transfers at 1 Gbit/s take somewhat longer than a step computes. `bf16 wire` is the package's hook, on the plan
made for 16-bit transfers and on DistributedDataParallel's default buckets: like stands against like, and what 16 bits
are worth is not booked as worth of a plan. `bound of any buckets` is arithmetic: compute, or all bytes at the link's
rate from the first gradient on, whichever is longer. Rules that part the all-reduce are modelled only.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.bench.options import read_options
from thrifty.bench.registry import BenchResult, benchmark
from thrifty.core.errors import DistributedError, UsageError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Case:
    """Images a process and step, and their side in pixels; small ones for --quick."""

    batch: int
    image_size: int
    quick_batch: int
    quick_image_size: int


CASES = {
    "alexnet": Case(8, 224, 8, 64),
    "vgg19": Case(4, 96, 2, 32),
    "resnet50": Case(8, 80, 8, 32),
    "transformer": Case(16, 32, 16, 32),
}


@dataclass(frozen=True)
class Choices:
    """What `--set` may choose.

    Attributes:
        networks: keys of `CASES`; all where empty.
        link: rate of the shaped link as tc writes it, or `none` for the loopback device.
        rounds: timed steps of each rule, in turn.
        batch: images a process and step, for the networks chosen.
        image_size: side in pixels, for the networks chosen.
        transfer_s: seconds for timing transfers; 8, or 2 with --quick, where None.
        limit_s: seconds that one network may take.
    """

    networks: tuple[str, ...] = ()
    link: str = "1gbit"
    rounds: int | None = None
    batch: int | None = None
    image_size: int | None = None
    transfer_s: float | None = None
    limit_s: float = 1800.0


@benchmark("merge-plan", "merge rules for gradients: predicted and measured steps of two processes over a link")
def run(
    quick: bool, console: Console, options: Sequence[str] = (), earlier: Mapping[str, Any] | None = None
) -> BenchResult:
    """Run every rule on every chosen network; rows of other networks in `earlier` are kept."""
    from thrifty.bench.link import unavailable

    choices, dotted = read_options(Choices, options)
    if dotted:
        raise UsageError(f"--set {next(iter(dotted))}: merge-plan knows no such key")
    networks = choices.networks or tuple(CASES)
    for name in networks:
        if name not in CASES:
            raise UsageError(f"--set networks={name}: choose among {', '.join(CASES)}")
    rounds = choices.rounds or (2 if quick else 11)
    if rounds < 1:
        raise UsageError("--set rounds: at least 1")
    why_not = "asked for the loopback device" if choices.link == "none" else unavailable()
    if why_not:
        console.print(f"no shaped link: {why_not}; measured over the loopback device", markup=False)
    rate = None if why_not else choices.link
    rows = [row for row in (earlier or {}).get("rows", []) if row["network"] not in networks]
    settings = dict((earlier or {}).get("settings", {}).get("networks", {}))
    for name in networks:
        case = CASES[name]
        job = {
            "network": name,
            "batch": choices.batch or (case.quick_batch if quick else case.batch),
            "image_size": choices.image_size or (case.quick_image_size if quick else case.image_size),
            "rounds": rounds,
            "transfer_s": choices.transfer_s or (2.0 if quick else 8.0),
        }
        console.print(f"{name}: {job['batch']} images of {job['image_size']} px in each process", markup=False)
        with console.status(name) as status:
            found = run_pair(job, rate, choices.limit_s, status.update)
        rows += _rows(name, found)
        settings[name] = {
            **{key: job[key] for key in ("batch", "image_size", "rounds")},
            "link": rate or f"loopback: {why_not}",
            "in_flight": found["in_flight"],
            "profile": {key: found["profile"][key] for key in ("forward_s", "backward_s")},
            "cost": found["cost"],
            "bf16_cost": found["bf16_cost"],
            "differences": found["differences"],
        }
    summary = {name: summarise([row for row in rows if row["network"] == name]) for name in dict.fromkeys(
        row["network"] for row in rows
    )}  # fmt: skip
    columns = ("network", "rule", "buckets", "modelled_s", "measured_s", "measured_min_s", "error")
    return BenchResult({"networks": settings, "quick": quick}, rows, summary, columns)


def run_pair(
    job: Mapping[str, Any], rate: str | None, limit_s: float, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the two processes and return what process 0 found.

    Args:
        job: of `merge_worker.Job`, without `out`.
        rate: of the shaped link; None for the loopback device.
        limit_s: seconds after which they are ended.
        progress: called with each line that process 0 says.

    Raises:
        DistributedError: one of them failed, or took too long; with the last line it said.
    """
    from thrifty.bench.link import ShapedLink

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        link = stack.enter_context(ShapedLink(rate)) if rate else None
        port = str(_free_port())
        processes = []
        for rank in range(2):
            own = link.environment(rank) if link else {"MASTER_ADDR": "127.0.0.1"}
            environment = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1", **own,
            }  # fmt: skip
            said = stack.enter_context((folder / f"said-{rank}").open("w+"))
            words = [
                sys.executable,
                "-m",
                "thrifty.bench.merge_worker",
                json.dumps({**job, "out": str(folder / "out")}),
            ]
            processes.append(
                subprocess.Popen(
                    [*(link.inside(rank) if link else []), *words],
                    env=environment,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )
        _wait(processes, folder, limit_s, progress)
        found: dict[str, Any] = json.loads((folder / "out").read_text(encoding="utf-8"))
        return found


def _wait(
    processes: list[subprocess.Popen[Any]], folder: Path, limit_s: float, progress: Callable[[str], None]
) -> None:
    end = time.monotonic() + limit_s
    told = 0
    try:
        while any(process.poll() is None for process in processes):
            failed = [rank for rank, process in enumerate(processes) if process.poll()]
            if failed or time.monotonic() > end:
                break
            lines = (folder / "said-0").read_text(errors="replace").splitlines()
            for line in lines[told:]:
                progress(line)
            told = len(lines)
            time.sleep(0.1)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    if failed:
        # The first to fail takes the others with it, which then complain of that.
        lines = [line for rank in failed for line in (folder / f"said-{rank}").read_text().splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {processes[failed[0]].returncode}"
        raise DistributedError(f"process {failed[0]} failed or took over {limit_s:g} s: {last}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


def _rows(network: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rule, seconds in found["seconds"].items():
        measured = statistics.median(seconds)
        modelled = found["modelled_s"][rule]
        rows.append(
            {
                "network": network,
                "rule": rule,
                "buckets": found["plans"][rule]["buckets"],
                "modelled_s": modelled,
                "measured_s": measured,
                "measured_min_s": min(seconds),
                "measured_max_s": max(seconds),
                "error": modelled / measured - 1,
                "bucket_bytes": found["plans"][rule]["bucket_bytes"],
                "compute_s": found["alone_s"],
                "seconds": seconds,
            }
        )
    for rule, modelled in {**found["bounds_s"], **found["split_s"]}.items():
        rows.append({"network": network, "rule": rule, "buckets": None, "modelled_s": modelled, "measured_s": None,
                     "error": None, "compute_s": found["alone_s"]})  # fmt: skip
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Rival over ours of the measured and the modelled steps of one network, and how far the model was off.

    `ours` are the planned buckets alone, in fp32 as all rivals; `bound_vs_ddp` is what no buckets can exceed.
    """
    from thrifty.bench.merge_worker import BOUND, DEFAULT, DEFAULT_HALF, HALF, OPTIMAL
    from thrifty.distributed.rules import RIVALS

    measured = {row["rule"]: row["measured_s"] for row in rows if row["measured_s"] is not None}
    modelled = {row["rule"]: row["modelled_s"] for row in rows}
    return {
        "ours_vs_best_rival": min(measured[rule] for rule in RIVALS) / measured[OPTIMAL],
        "ours_vs_ddp": measured[DEFAULT] / measured[OPTIMAL],
        "bound_vs_ddp": measured[DEFAULT] / modelled[BOUND],
        "ours_with_bf16_wire_vs_ddp": measured[DEFAULT] / measured[HALF],
        "ours_with_bf16_wire_vs_ddp_with_it": measured[DEFAULT_HALF] / measured[HALF],
        "modelled_vs_best_rival": min(modelled[rule] for rule in RIVALS) / modelled[OPTIMAL],
        "modelled_vs_ddp": modelled[DEFAULT] / modelled[OPTIMAL],
        "median_error": statistics.median(abs(row["error"]) for row in rows if row["error"] is not None),
    }
