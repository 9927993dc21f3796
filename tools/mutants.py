"""Do the tests notice small errors? `python tools/mutants.py planning --sample 200`, or `make mutants`.

Mutants are those of cosmic-ray (an operator swapped, a number off by one, a condition turned round, ...): of each place
and kind one, of these a sample from a seed. Each runs against the tests of its room that run its line, quickest first,
until one fails. Those that Python compiles to the same program, annotations aside, do not count. Results are kept in
build/mutants, so a run that is broken off goes on where it was; `--again` tries the survivors again.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from mutant_trial import TIMED_OUT, outcome, survey

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "mutants"
PLANNING = "chains cost optimum overlap plan profile rules schedule two_in_flight"
PLANNING_TESTS = "merge_plan plan_proof simulate transfer_cost"
ROOMS = {
    "planning": (
        [ROOT / f"src/thrifty/distributed/{name}.py" for name in PLANNING.split()],
        [ROOT / f"tests/distributed/test_{name}.py" for name in PLANNING_TESTS.split()],
    ),
    "ops": (sorted((ROOT / "src/thrifty/ops").glob("*.py")), [ROOT / "tests/ops"]),
}
NEED_ARGUMENTS = ("core/VariableReplacer", "core/VariableInserter")
BUDGET_S, SLACK_S, SLOWER = 20.0, 15.0, 3.0
"""Tests of a mutant take at most `BUDGET_S` on the original; `SLACK_S` and `SLOWER` times as long stop the mutant."""


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th change that an operator can make to a file."""

    path: str
    line: int
    operator: str
    occurrence: int

    @property
    def source(self) -> str | None:
        """The whole file with the change, or None where it would be the same program or none at all."""
        return _changed(self)

    @property
    def key(self) -> str:
        """Names the mutant for as long as its file stays as it is."""
        digest = hashlib.sha256(_text(self.path).encode()).hexdigest()[:12]
        return f"{self.path} {digest} {self.operator} {self.occurrence}"

    def __str__(self) -> str:
        """Return the place, the change, and what stands there."""
        changed = (self.source or "").splitlines()
        was = _text(self.path).splitlines()[self.line - 1].strip()
        return f"{self.path}:{self.line}  {was}  ->  {changed[self.line - 1].strip() if changed else ''}"


def main() -> None:
    """Try the sample that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room", choices=list(ROOMS))
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="go on with the next call")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    words = parser.parse_args()
    stop = time.monotonic() + words.stop_after_s
    KEPT.mkdir(parents=True, exist_ok=True)
    sources, tests = ROOMS[words.room]
    drawn = sampled(sources, words.sample, random.Random(words.seed))
    kept = KEPT / f"{words.room}.json"
    results: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    if words.again:
        results = {key: result for key, result in results.items() if result != "survived"}
    covered = _covered(words.room, sources, tests)
    for at, mutant in enumerate(drawn):
        if mutant.key in results:
            continue
        if time.monotonic() > stop:
            break
        results[mutant.key] = tried(mutant, covered, KEPT / f"{words.room}.log")
        kept.write_text(json.dumps(results, indent=0))
        print(f"{at + 1}/{len(drawn)} {results[mutant.key]}: {mutant}", flush=True)
    report(words.room, drawn, results)


def sampled(sources: list[Path], count: int, draw: random.Random) -> list[Mutant]:
    """Draw mutants of the files: of each place and kind of change one, of these `count`."""
    places: dict[tuple[object, ...], list[Mutant]] = {}
    for path in sources:
        tree, name = get_ast(path.read_text()), str(path.relative_to(ROOT))
        for operator in operator_names():
            if operator in NEED_ARGUMENTS:
                continue
            kind, change = operator.split("_")[0], get_operator(operator)()
            found = (place for node in ast_nodes(tree) for place in change.mutation_positions(node))
            for occurrence, place in enumerate(found):
                mutants = places.setdefault((name, kind, place), [])
                mutants.append(Mutant(name, place[0][0], operator, occurrence))
    order = list(places.values())
    draw.shuffle(order)
    drawn: list[Mutant] = []
    for mutants in order:
        draw.shuffle(mutants)
        real = next((mutant for mutant in mutants if mutant.source is not None), None)
        drawn += [real] if real else []
        if len(drawn) == count:
            break
    return drawn


def tried(mutant: Mutant, covered: dict[str, dict[str, object]], log: Path) -> str:
    """Whether the tests kill it: `killed`, `timeout`, or `survived`."""
    lines = covered["lines"].get(str(ROOT / mutant.path), {})
    names = lines.get(str(mutant.line)) or sorted({name for found in lines.values() for name in found})
    seconds: dict[str, float] = covered["seconds"]
    chosen, total = [], 0.0
    for name in sorted(names, key=lambda name: seconds[name]):
        total += seconds[name]
        if chosen and total > BUDGET_S:
            break
        chosen.append(name)
    if not chosen:
        return "survived"
    code = outcome(ROOT / mutant.path, mutant.source, chosen, SLACK_S + SLOWER * min(total, BUDGET_S), log)
    return "survived" if code == 0 else "timeout" if code == TIMED_OUT else "killed"


def report(room: str, drawn: list[Mutant], results: dict[str, str]) -> None:
    """Print the survivors and the share that was killed."""
    known = [mutant for mutant in drawn if mutant.key in results]
    survivors = [mutant for mutant in known if results[mutant.key] == "survived"]
    for mutant in survivors:
        print("survived", mutant)
    timeouts = sum(results[mutant.key] == "timeout" for mutant in known)
    killed = len(known) - len(survivors)
    share = f", {100 * killed / len(known):.1f} %" if known else ""
    left = f"; {len(drawn) - len(known)} not tried yet" if len(known) < len(drawn) else ""
    print(f"{room}: {killed} of {len(known)} mutants killed{share} ({timeouts} of them by the time limit){left}")


def _covered(room: str, sources: list[Path], tests: list[Path]) -> dict[str, dict[str, object]]:
    """Which tests run which lines, found anew when a file or a test has changed."""
    files = sorted({*sources, *(path for test in tests for path in ([test] if test.is_file() else test.rglob("*.py")))})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    kept = KEPT / f"{room}-{digest[:12]}.lines"
    if not kept.exists():
        print("looking which test runs which line", flush=True)
        survey(sources, tests, kept, KEPT / f"{room}.log")
    return json.loads(kept.read_text())


@cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()


@cache
def _changed(mutant: Mutant) -> str | None:
    original = _text(mutant.path)
    changed = mutate_code(original, get_operator(mutant.operator)(), mutant.occurrence)
    try:
        same = changed is None or _program(changed) == _program(original)
    except SyntaxError:
        return None
    return None if same else changed


@cache
def _program(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


if __name__ == "__main__":
    main()
