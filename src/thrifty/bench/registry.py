"""The benchmarks by name, and what one is made of.

A benchmark is a module with one function under `@benchmark(name, line)`, and a row in `MODULES`. Listing the benchmarks
imports their modules, so these keep torch and other heavy imports inside their functions.

    @benchmark("data-throughput", "images per second that the data loader delivers")
    def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult: ...
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

# name -> module that defines it; the order is that of the list
MODULES = {
    "data-throughput": "thrifty.bench.data_throughput",
    "lsh-inference": "thrifty.bench.lsh_inference",
    "lsh-kdd17": "thrifty.bench.lsh_kdd17",
    "lsh-next-item": "thrifty.bench.lsh_next_item",
    "lsh-width": "thrifty.bench.lsh_width",
    "lsh-xmc": "thrifty.bench.lsh_xmc",
    "reuse-encoders": "thrifty.bench.reuse_encoders",
    "reuse-layers": "thrifty.bench.reuse_layers",
}


@dataclass(frozen=True)
class BenchResult:
    """What a benchmark found, in plain numbers of SI units with the unit in the key (`dense_s`, `peak_bytes`).

    Attributes:
        settings: what was held fixed: data, sizes, repeats.
        rows: one object a measurement, with the keys that the design lays down for this benchmark.
        summary: the few numbers that the rows come down to.
        columns: keys of the rows to print, in order; all keys with a plain value where empty.
    """

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    columns: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Benchmark:
    """A named benchmark: its one line for the list and the function that runs it."""

    name: str
    line: str
    function: Callable[..., BenchResult]

    def run(self, *, quick: bool, console: Console, data_root: Path | None = None) -> BenchResult:
        """Run it. `data_root` is handed to the functions that take it."""
        takes_root = "data_root" in inspect.signature(self.function).parameters
        more = {"data_root": data_root} if takes_root else {}
        return self.function(quick=quick, console=console, **more)


def benchmark(name: str, line: str) -> Callable[[Callable[..., BenchResult]], Benchmark]:
    """Make a benchmark of a function `(quick, console[, data_root]) -> BenchResult`."""
    return lambda function: Benchmark(name, line, function)


def load(name: str) -> Benchmark:
    """Import the benchmark of this name. Raises UsageError, which names them all, where there is none."""
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"no benchmark is called {name!r}{hint} (there are: {', '.join(MODULES)})")
    module = import_module(MODULES[name])
    return next(one for one in vars(module).values() if isinstance(one, Benchmark) and one.name == name)


def load_all() -> list[Benchmark]:
    """All benchmarks in the order of the list."""
    return [load(name) for name in MODULES]
