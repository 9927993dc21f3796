"""The benchmarks by name, and what one is made of.

A benchmark is a module with one function under `@benchmark(name, line)`, and a row in `MODULES`. Listing the benchmarks
imports their modules, so these keep torch and other heavy imports inside their functions.

    @benchmark("data-throughput", "images per second that the data loader delivers")
    def run(quick: bool, console: Console, data_root: Path | None = None) -> BenchResult: ...
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from thrifty.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

# name -> module that defines it; the order is that of the list
MODULES = {
    "ad-models": "thrifty.bench.ad_models",
    "ad-nested": "thrifty.bench.ad_nested",
    "ad-overhead": "thrifty.bench.ad_overhead",
    "ad-purdue": "thrifty.bench.ad_purdue",
    "ad-steps": "thrifty.bench.ad_steps",
    "data-throughput": "thrifty.bench.data_throughput",
    "faults": "thrifty.bench.faults",
    "large-batch": "thrifty.bench.large_batch",
    "lsh-inference": "thrifty.bench.lsh_inference",
    "lsh-kdd17": "thrifty.bench.lsh_kdd17",
    "lsh-next-item": "thrifty.bench.lsh_next_item",
    "lsh-width": "thrifty.bench.lsh_width",
    "lsh-xmc": "thrifty.bench.lsh_xmc",
    "merge-plan": "thrifty.bench.merge_plan",
    "plan-accuracy": "thrifty.bench.plan_accuracy",
    "precision": "thrifty.bench.precision",
    "reuse-cost": "thrifty.bench.reuse_cost",
    "reuse-encoders": "thrifty.bench.reuse_encoders",
    "reuse-inference": "thrifty.bench.reuse_inference",
    "reuse-layers": "thrifty.bench.reuse_layers",
    "reuse-sequences": "thrifty.bench.reuse_sequences",
    "reuse-training": "thrifty.bench.reuse_training",
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

    def run(
        self,
        *,
        quick: bool,
        console: Console,
        data_root: Path | None = None,
        options: Sequence[str] = (),
        earlier: Mapping[str, Any] | None = None,
        keep: Callable[[BenchResult], None] = lambda so_far: None,
    ) -> BenchResult:
        """Run it. What follows `console` is handed to the functions that take it.

        Args:
            quick: a small version.
            console: where progress is shown.
            data_root: folder of data sets.
            options: `key=value`, as given to `--set`.
            earlier: what an earlier run left in the file that this one will write.
            keep: called with what is found so far, so that a run that is killed loses no finished row.

        Raises:
            UsageError: options for a benchmark that has none.
        """
        if options and not self._takes("options"):
            raise UsageError(f"--set {options[0]}: {self.name} has nothing to set")
        more = {"data_root": data_root, "options": options, "earlier": earlier, "keep": keep}
        return self.function(
            quick=quick, console=console, **{key: value for key, value in more.items() if self._takes(key)}
        )

    @property
    def merges(self) -> bool:
        """Whether it keeps what an earlier run left in its file."""
        return self._takes("earlier")

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.function).parameters


def benchmark(name: str, line: str) -> Callable[[Callable[..., BenchResult]], Benchmark]:
    """Make a benchmark of a function `(quick, console[, data_root][, options][, earlier][, keep]) -> BenchResult`."""
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
