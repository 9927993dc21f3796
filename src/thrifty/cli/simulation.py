"""What `thrifty simulate` does with its options: the profile, the sweep, tables, JSON and the plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from thrifty.distributed import GradientProfile
    from thrifty.distributed.collectives import Link
    from thrifty.distributed.simulate import Point

VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Request:
    """The options of `thrifty simulate`, as they were given."""

    model: str
    profile: Path | None
    workers: str
    bandwidth: str
    latency: str
    local_bandwidth: str | None
    local_latency: str | None
    algorithm: str
    group: int | None
    in_flight: int
    rule: str
    batch: int | None
    image_size: int
    compute: str | None
    gradient: str
    jitter: float
    stragglers: float
    straggler_factor: float
    steps: int
    seed: int
    out: Path | None


def run(request: Request, console: Console) -> None:
    """Simulate, print tables and assumptions, and write the files.

    Raises:
        ThriftyError: for options that cannot be meant, and a profile that cannot be read.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from thrifty.distributed.collectives import ALGORITHMS
    from thrifty.distributed.simulate import RULES, sweep
    from thrifty.distributed.stragglers import Unevenness

    if request.out is not None and request.out.exists() and not request.out.is_dir():
        from thrifty.core.errors import UsageError

        raise UsageError(f"--out {request.out} is not a folder")
    uneven = Unevenness(request.jitter, request.stragglers, request.straggler_factor)
    link = _link(request)
    profile, where = _profile(request)
    counts = _workers(request.workers)
    algorithms = ALGORITHMS if request.algorithm == "all" else tuple(request.algorithm.split(","))
    rules = RULES if request.rule == "all" else tuple(request.rule.split(","))
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("tracing")
        points = sweep(
            profile, link, counts, algorithms=algorithms, rules=rules, group=request.group,
            in_flight=request.in_flight, progress=lambda text: progress.update(task, description=text),
        )  # fmt: skip
        rows = [asdict(point) for point in points]
        if request.jitter or request.stragglers:
            for row, point in zip(rows, points, strict=True):
                progress.update(task, description=f"{point.workers} uneven workers, {point.algorithm}, {point.rule}")
                row.update(_unevenly(profile, link, point, uneven, request))
    assumed = _assumptions(request, profile, link, where)
    _show(rows, assumed, request, console)
    races = _races(request, console) if request.profile is None and request.model == "resnet50" else []
    if request.out is not None:
        _write(request, rows, assumed, races, console)


def _link(request: Request) -> Link:
    from thrifty.distributed.collectives import Link
    from thrifty.distributed.units import parse_bandwidth, parse_seconds

    return Link(
        latency_s=parse_seconds(request.latency),
        bytes_per_s=parse_bandwidth(request.bandwidth),
        local_latency_s=parse_seconds(request.local_latency) if request.local_latency else None,
        local_bytes_per_s=parse_bandwidth(request.local_bandwidth) if request.local_bandwidth else None,
    )


def _profile(request: Request) -> tuple[GradientProfile, str]:
    """The profile as asked for, and where its times come from."""
    from thrifty.bench.gradient_profiles import network_profile
    from thrifty.core.errors import UsageError
    from thrifty.distributed.saved import read
    from thrifty.distributed.trace import P40
    from thrifty.distributed.units import parse_seconds

    if request.gradient not in VALUE_BYTES:
        raise UsageError(f"--gradient {request.gradient}: choose one of {', '.join(VALUE_BYTES)}")
    if request.profile is not None:
        profile, where = read(request.profile).profile, f"measured, {request.profile}"
    else:
        profile = network_profile(request.model, batch=request.batch, image_size=request.image_size)
        where = f"computed from the model by the roofline of a {P40.name}"
    if request.compute is not None:
        profile, where = profile.taking(parse_seconds(request.compute)), f"{where}, scaled to --compute"
    return profile.sent_as(VALUE_BYTES[request.gradient]), where


def _workers(text: str) -> list[int]:
    from thrifty.core.errors import UsageError

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--workers {text}: write a number such as 2048, or a list such as 8,32,64") from None
    if len(counts) > 1:
        return counts
    powers = [2**k for k in range(13) if 2**k < counts[0]]
    return [*powers, counts[0]]


def _unevenly(
    profile: GradientProfile, link: Link, point: Point, uneven: Any, request: Request
) -> dict[str, float | None]:
    """Median and slowest step of uneven workers; None for schedules that part the all-reduce."""
    from thrifty.distributed import make_plan
    from thrifty.distributed.simulate import transfer_cost
    from thrifty.distributed.stragglers import simulate_steps

    if point.workers > 1 and not point.buckets:
        return {"uneven_step_s": None, "uneven_slowest_s": None, "uneven_efficiency": None}
    cost = transfer_cost(point.algorithm, point.workers, link, point.group)
    counts = [len(profile.names)]
    if point.workers > 1:
        counts = make_plan(profile, cost, in_flight=request.in_flight, rule=point.rule).counts
    found = simulate_steps(
        profile, counts, cost, point.workers, uneven, in_flight=request.in_flight, steps=request.steps,
        seed=request.seed,
    )  # fmt: skip
    middle = median(found)
    return {"uneven_step_s": middle, "uneven_slowest_s": max(found), "uneven_efficiency": profile.compute_s / middle}


def _assumptions(request: Request, profile: GradientProfile, link: Link, where: str) -> dict[str, str]:
    from thrifty.report import numbers

    local = link.local_bytes_per_s or link.bytes_per_s
    local_latency = link.latency_s if link.local_latency_s is None else link.local_latency_s
    batch = "" if request.batch is None else f", {request.batch} images a worker"
    uneven = f"jitter {request.jitter:g}, {request.stragglers:g} of them {request.straggler_factor:g} times slower"
    return {
        "compute": f"{numbers.seconds(profile.compute_s)} a step (forward {numbers.seconds(profile.forward_s)}, "
        f"backward {numbers.seconds(profile.backward_s)}){batch}; {where}",
        "gradients": f"{numbers.size(profile.total_bytes)} in {len(profile.names)} tensors, {request.gradient}",
        "network": f"{numbers.size(link.bytes_per_s)}/s each way, {numbers.seconds(link.latency_s)} a message, "
        "no other traffic",
        "groups": f"{numbers.size(local)}/s, {numbers.seconds(local_latency)}",
        "adding up": f"{numbers.size(link.add_bytes_per_s)}/s",
        "in flight": str(request.in_flight),
        "workers": uneven if request.jitter or request.stragglers else "equally fast, and never waiting for data",
        "update": "not counted",
    }


def _show(rows: list[dict[str, Any]], assumed: dict[str, str], request: Request, console: Console) -> None:
    from rich.table import Table

    from thrifty.distributed.published import POINTS
    from thrifty.report import numbers

    key = "uneven_efficiency" if request.jitter or request.stragglers else "efficiency"
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    best = rules[0]
    table = Table(title=f"scaling efficiency, rule {best}", title_justify="left", title_style="bold")
    table.add_column("workers", justify="right")
    for algorithm in algorithms:
        table.add_column(algorithm, justify="right")
    by_place = {(row["workers"], row["algorithm"], row["rule"]): row for row in rows}
    for count in dict.fromkeys(row["workers"] for row in rows):
        found = [by_place.get((count, algorithm, best)) for algorithm in algorithms]
        table.add_row(str(count), *(_cell(row, key) for row in found))
    console.print(table)
    largest = max(row["workers"] for row in rows)
    table = Table(title=f"{largest} workers by rule: step, efficiency, transfers", title_justify="left",
                  title_style="bold")  # fmt: skip
    table.add_column("rule")
    for algorithm in algorithms:
        table.add_column(algorithm, justify="right")
    for rule in rules:
        cells = []
        for algorithm in algorithms:
            row = by_place.get((largest, algorithm, rule))
            step = None if row is None else row.get("uneven_step_s", row["step_s"])
            cells.append(
                numbers.MISSING if row is None or step is None
                else f"{numbers.seconds(step)}, {numbers.percent(row[key])}, {row['buckets'] or numbers.MISSING}"
            )  # fmt: skip
        table.add_row(rule, *cells)
    console.print(table)
    for name, text in assumed.items():
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)
    for point in POINTS:
        if point.network == request.model and request.profile is None:
            console.print(
                f"published: {numbers.percent(point.efficiency)} at {point.workers} workers, {point.algorithm}, "
                f"{point.what} "
                f"({point.source})",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def _cell(row: dict[str, Any] | None, key: str) -> str:
    from thrifty.report import numbers

    if row is None or row[key] is None:
        return numbers.MISSING
    group = f" (groups of {row['group']})" if row["group"] > 1 else ""
    return f"{numbers.percent(row[key])}{group}"


def _races(request: Request, console: Console) -> list[dict[str, Any]]:
    """The published races of rules, simulated; ResNet-50 alone."""
    from rich.table import Table

    from thrifty.bench.gradient_profiles import network_profile
    from thrifty.distributed.published import RACES, RULES, SHI, rerun
    from thrifty.report import numbers

    found = []
    table = Table(title=f"32 GPUs, images/s published ({SHI}) and simulated", title_justify="left", title_style="bold")
    for column in ("link", *(RULES[rule] for rule in RACES[0].per_s), "same order", "optimal", "start-up fitted"):
        table.add_column(column)
    for race in RACES:
        again = rerun(race, network_profile("resnet50", batch=race.batch))
        cells = [f"{value}, {again.per_s[rule]:.0f}" for rule, value in race.per_s.items()]
        table.add_row(race.link, *cells, "yes" if again.same_ranking else "no", f"{again.per_s['optimal']:.0f}",
                      numbers.seconds(again.startup_s))  # fmt: skip
        found.append(
            {
                "link": race.link, "workers": race.workers, "batch": race.batch, "published_per_s": race.per_s,
                "simulated_per_s": again.per_s, "fitted": list(again.fitted), "startup_s": again.startup_s,
                "byte_s": again.byte_s, "same_ranking": again.same_ranking,
            }
        )  # fmt: skip
    console.print(table)
    console.print("BSP and WFBP of a link are fitted by its start-up and bytes; MG-WFBP and optimal are predictions")
    return found


def _write(
    request: Request, rows: list[dict[str, Any]], assumed: dict[str, str], races: list[dict[str, Any]], console: Console
) -> None:
    from thrifty.core.atomic import write_bytes, write_json
    from thrifty.core.machine import machine
    from thrifty.distributed.published import POINTS
    from thrifty.report.plots import render
    from thrifty.report.scaling import scaling

    assert request.out is not None
    points = [asdict(point) for point in POINTS if point.network == request.model and request.profile is None]
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(request).items()}
    content = {"simulate": request.model, "machine": machine(), "settings": settings, "assumptions": assumed,
               "rows": rows, "published": points, "races": races}  # fmt: skip
    write_json(request.out / "simulate.json", content)
    for kind in ("svg", "png"):
        write_bytes(request.out / f"scaling.{kind}", render(scaling(request.model, rows, points), kind))
    console.print(f"written: {request.out}/simulate.json, scaling.svg, scaling.png", markup=False, soft_wrap=True)
