"""The command `thrifty`: one file a command beside this one, registered in the table below.

Exit codes: 0 on success, 2 on wrong usage, 1 on failure, 130 when interrupted. A user's mistake is one line on stderr
that says what to change; THRIFTY_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from thrifty.cli import bench, cite, doctor, plan, report, simulate, train
from thrifty.core.errors import ThriftyError, UsageError

app = typer.Typer(
    name="thrifty",
    help="Train the same network for less compute, and see what you saved.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("simulate")(simulate.simulate)
app.command("report")(report.report)
app.command("cite")(cite.cite)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        import thrifty

        print(f"thrifty {thrifty.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
    if os.environ.get("THRIFTY_ISA"):
        try:
            import thrifty._load_native  # noqa: F401  (refuses a name that cannot be used here)
        except ValueError as error:
            raise UsageError(str(error)) from None


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: the words after `thrifty`; those of the process where None.
    """
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, prog_name="thrifty", standalone_mode=False)
    except ThriftyError as error:
        return _fail(error, str(error), error.exit_code)
    except typer.TyperException as error:  # wrong usage, as typer found it
        return _fail(error, error.format_message(), error.exit_code)
    except typer.Abort:
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(error, str(error), 1)
    except MemoryError as error:
        return _fail(error, "out of memory: free some, or take a smaller batch", 1)
    return code if isinstance(code, int) else 0


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("THRIFTY_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    return code
