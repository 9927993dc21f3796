"""The frame of the benchmarks: registry, fair timing, and a result that is written whole or not at all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from thrifty.bench import output, registry
from thrifty.bench.registry import Benchmark, BenchResult, benchmark
from thrifty.bench.timing import calibrate, interleave, median_min_max
from thrifty.core.errors import UsageError


class Ticking:
    """A clock on which every call of an arm takes the seconds that it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def arm(self, name: str, *seconds: float) -> object:
        given: Iterator[float] = iter(seconds)
        last = seconds[-1]

        def call() -> None:
            self.calls.append(name)
            self.now += next(given, last)

        return call


def test_arms_take_turns_and_none_is_always_first() -> None:
    clock = Ticking()
    arms = {name: clock.arm(name, 9.0, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    timed = interleave(arms, 3, warmup=1, clock=clock)
    assert "".join(clock.calls) == "abc" + "abc" + "bca" + "cab"
    assert timed == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3}, "the warm-up is not among the timings"


def test_waiting_for_the_device_is_inside_the_time() -> None:
    clock = Ticking()
    timed = interleave({"a": clock.arm("a", 1.0)}, 2, synchronize=clock.arm("wait", 0.5), clock=clock)
    assert timed == {"a": [1.5, 1.5]}


def test_an_arm_that_fails_leaves_the_collector_on() -> None:
    import gc

    with pytest.raises(ZeroDivisionError):
        interleave({"a": lambda: 1 / 0}, 1, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize(("budget_s", "repeats"), [(0.0, 3), (40.0, 10), (1e9, 200)])
def test_repeats_fill_the_budget_within_bounds(budget_s: float, repeats: int) -> None:
    clock = Ticking()
    arms = {"a": clock.arm("a", 50.0, 1.0), "b": clock.arm("b", 50.0, 3.0)}
    assert calibrate(arms, budget_s, clock=clock) == repeats


def test_spread_and_its_refusals() -> None:
    assert median_min_max([3.0, 1.0, 2.0, 9.0]) == (2.5, 1.0, 9.0)
    with pytest.raises(ValueError, match="no timings"):
        median_min_max([])
    with pytest.raises(ValueError, match="give 1 or more"):
        interleave({"a": lambda: None}, 0)


@pytest.mark.parametrize("name", registry.MODULES)
def test_every_listed_benchmark_is_where_the_table_says(name: str) -> None:
    found = registry.load(name)
    assert found.name == name and found.line and "\n" not in found.line and len(found.line) <= 100


def test_an_unknown_name_gets_the_list_and_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean data-throughput\? \(there are: .*data-throughput"):
        registry.load("data-troughput")


def test_data_root_goes_to_those_who_take_it(tmp_path: Path) -> None:
    @benchmark("plain", "takes no data")
    def plain(quick: bool, console: Console) -> BenchResult:
        return BenchResult({"quick": quick}, [], {})

    @benchmark("rooted", "takes data")
    def rooted(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
        return BenchResult({"root": data_root}, [], {})

    console = Console(file=io.StringIO())
    assert plain.run(quick=True, console=console, data_root=tmp_path).settings == {"quick": True}
    assert rooted.run(quick=True, console=console, data_root=tmp_path).settings == {"root": tmp_path}


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from thrifty.bench.registry import load_all; assert load_all()\n"
        "print(sorted({'torch', 'matplotlib', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


RESULT = BenchResult(
    settings={"repeats": 3},
    rows=[
        {
            "layer": "conv1 [bold]",
            "dense_s": 0.0123,
            "peak_bytes": 4_000_000,
            "speedup": 0.5,
            "stages_s": {"hash": 0.1},
        },
        {"layer": "conv2", "dense_s": None, "peak_bytes": 1, "speedup": float("nan"), "stages_s": {}},
    ],
    summary={"min_speedup": 0.5, "images_per_s": 12345.6},
)


def test_the_table_shows_units_and_leaves_objects_out() -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(output.result_table("demo", RESULT))
    text = console.file.getvalue()
    assert "conv1 [bold]" in text and "12.3 ms" in text and "4.00 MB" in text and "stages" not in text
    assert output.summary_lines(RESULT) == ["min speedup: 0.5", "images per s: 12,346"]


def test_the_file_holds_one_object_of_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    output.check_target(path)
    output.write_result(path, "demo", RESULT)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert list(written) == ["bench", "machine", "settings", "rows", "summary"]
    assert written["bench"] == "demo" and written["machine"]["cpu"]
    assert written["rows"][1]["speedup"] is None


def test_targets_that_cannot_be_written_are_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        output.check_target(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        output.check_target(tmp_path / "file" / "result.json")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> object:
    """The command with one quick benchmark in place of the real one."""
    import typer

    from thrifty.cli.bench import bench

    demo = Benchmark("demo", "one line", lambda quick, console: RESULT)
    monkeypatch.setattr(registry, "MODULES", {"demo": "unused"})
    monkeypatch.setattr(registry, "load_all", lambda: [demo])
    monkeypatch.setattr(registry, "load", lambda name: demo)
    made = typer.Typer()
    made.command()(bench)
    return made


def test_the_command_lists_runs_and_writes(app: object, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--list"]).output == "demo  one line\n"
    path = tmp_path / "demo.json"
    done = runner.invoke(app, ["demo", "--quick", "--json", str(path)])
    assert done.exit_code == 0 and "min speedup: 0.5" in done.output
    assert json.loads(path.read_text())["summary"] == RESULT.summary


def test_the_command_refuses_what_cannot_be_meant(app: object, tmp_path: Path) -> None:
    runner = CliRunner()
    for words, said in (
        ([], "say which benchmark to run: demo"),
        (["demo", "--json", str(tmp_path)], "is a folder"),
        (["demo", "--data-root", str(tmp_path / "absent")], "is not a folder"),
    ):
        caught = runner.invoke(app, words).exception
        assert isinstance(caught, UsageError) and said in str(caught)
