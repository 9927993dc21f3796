"""Tests in a forked process: which of them run which lines, and whether they notice a module with other source.

A process that has imported torch is forked for each trial, so that nobody waits for torch twice; thrifty itself is
imported in the fork alone, where the mutated source stands in for the module's file. Nothing on disk is changed.
Processes that the tests start themselves see the original, so a mutant is never killed by them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy  # noqa: F401
import pytest
import torch

MOST_MEMORY_BYTES = 16 * 2**30
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist")
TIMED_OUT = -1


class Chosen:
    """A plugin of pytest: only these tests, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {name: at for at, name in enumerate(tests)}

    def pytest_configure(self) -> None:
        """Look for a failing example, the same way each time, but not for the smallest one."""
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mutants", database=None, derandomize=True, phases=phases)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what was not chosen."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid]
        )


class Watched:
    """A plugin of pytest: the lines that each test runs and how long it takes."""

    def __init__(self, sources: list[Path]) -> None:
        import coverage

        self.sources = sources
        self.coverage = coverage.Coverage(data_file=None, include=[str(path) for path in sources], config_file=False)
        self.seconds: dict[str, float] = {}
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Put what runs in it to the account of this test."""
        self.coverage.switch_context(item.nodeid)
        started = time.perf_counter()
        done = yield
        self.seconds[item.nodeid] = time.perf_counter() - started
        return done

    def lines(self) -> dict[str, dict[int, list[str]]]:
        """Return the tests that run each line of each file."""
        self.coverage.stop()
        found = self.coverage.get_data()
        by_line = {str(path): found.contexts_by_lineno(str(path)) for path in self.sources}
        return {
            path: {line: sorted(name for name in names if name) for line, names in lines.items()}
            for path, lines in by_line.items()
        }


def survey(sources: list[Path], tests: list[Path], into: Path, log: Path) -> None:
    """Run the tests once and write what they cover to `into`; exits with a message when one of them fails."""

    def body() -> int:
        watched = Watched(sources)
        code = pytest.main([*OPTIONS, *map(str, tests)], plugins=[watched])
        if code == 0:
            found = {"seconds": watched.seconds, "lines": watched.lines()}
            into.write_text(json.dumps(found))
        return int(code)

    code = forked(body, 1800.0, log)
    if code:
        sys.exit(f"the tests must pass before anything is mutated (pytest: {code}); see {log}")


def outcome(path: Path, source: str, tests: list[str], limit_s: float, log: Path) -> int:
    """The exit code of pytest on these tests while the module at `path` has another source, or `TIMED_OUT`."""

    def body() -> int:
        original = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str) -> object:
            if loader.path == str(path):
                return compile(source, loader.path, "exec", dont_inherit=True)
            return original(loader, name)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]
        files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
        return int(pytest.main([*OPTIONS, *files], plugins=[Chosen(tests)]))

    return forked(body, limit_s, log)


def forked(body: Callable[[], int], limit_s: float, log: Path) -> int:
    """What `body` returns in a process of its own, which writes to `log`; a crash is the signal's number + 128."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            torch.set_num_threads(1)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
            to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(to, 1)
            os.dup2(to, 2)
            code = body()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    until = time.monotonic() + limit_s
    try:
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    return TIMED_OUT
