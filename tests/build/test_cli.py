"""The command line itself: exit codes, and one line for a mistake."""

import os
import subprocess
import sys

import pytest
import typer

from thrifty.cli import main as cli
from thrifty.core.errors import DataError, UsageError


def thrifty(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thrifty", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "THRIFTY_DEBUG": "", "THRIFTY_ISA": "", "THRIFTY_NATIVE": "", **environment},
    )


def test_version() -> None:
    run = thrifty("--version")
    assert run.returncode == 0
    assert run.stdout.startswith("thrifty ")


def test_help_lists_the_commands() -> None:
    run = thrifty("--help")
    assert run.returncode == 0
    for command in ("train", "plan", "bench", "simulate", "report", "cite", "doctor"):
        assert command in run.stdout


def test_no_command_shows_the_help_and_is_wrong_usage() -> None:
    run = thrifty()
    assert run.returncode == 2
    assert "doctor" in run.stdout


@pytest.mark.parametrize("words", [["abacus"], ["--abacus"], ["doctor", "--abacus"], ["doctor", "spare"]])
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str]) -> None:
    run = thrifty(*words)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1


def test_unusable_isa_is_wrong_usage() -> None:
    pytest.importorskip("thrifty._native")
    run = thrifty("doctor", THRIFTY_ISA="abacus")
    assert run.returncode == 2
    assert run.stderr.startswith("error: THRIFTY_ISA 'abacus' is not an instruction set usable here")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (DataError("no set"), 1, "error: no set\n"),
        (UsageError("size 0"), 2, "error: size 0\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: [Errno 13] Permission denied: '/x'\n"),
        (MemoryError(), 1, "error: out of memory: free some, or take a smaller batch\n"),
        (typer.Exit(3), 3, ""),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 1, ""),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    raised: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", command_that_raises(raised))
    monkeypatch.delenv("THRIFTY_DEBUG", raising=False)
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == code
    assert capsys.readouterr().err == line


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "app", command_that_raises(DataError("no set")))
    monkeypatch.setenv("THRIFTY_DEBUG", "1")
    with pytest.raises(SystemExit):
        cli.main([])
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith("error: no set\n")


def command_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise error

    return app
