"""What a benchmark leaves: a table on the terminal, and one JSON object for a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from thrifty.bench.registry import BenchResult
from thrifty.core.atomic import write_json
from thrifty.core.errors import UsageError
from thrifty.core.machine import machine
from thrifty.report import numbers


def result_table(name: str, result: BenchResult) -> Table:
    """The rows as a table: columns by key, seconds and bytes in readable units, lists and objects left out."""
    columns = list(result.columns) or _plain_keys(result.rows)
    grid = Table(title=Text(name), title_justify="left", title_style="bold")
    for key in columns:
        texts = any(isinstance(row.get(key), str) for row in result.rows)
        grid.add_column(Text(_heading(key)), justify="left" if texts else "right")
    for row in result.rows:
        grid.add_row(*(Text(shown(key, row.get(key))) for key in columns))
    return grid


def summary_lines(result: BenchResult) -> list[str]:
    """The summary as lines `key: value`; an object in it has a line a key, and one in that a line of its own."""
    return _lines("", result.summary)


def _lines(before: str, summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in summary.items():
        name = f"{before}{key.replace('_', ' ')}"
        if not isinstance(value, Mapping):
            lines.append(f"{name}: {shown(key, value)}")
        elif before and not any(isinstance(item, Mapping) for item in value.values()):
            lines.append(f"{name}: {', '.join(f'{_heading(k)} {shown(k, v)}' for k, v in value.items())}")
        else:
            lines += _lines(f"{name}, ", value)
    return lines


def shown(key: str, value: Any) -> str:
    """A value as text, by the unit that its key ends in: `_s` seconds, `_bytes` bytes, anything else as it is."""
    if value is None:
        return numbers.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if key.endswith("_per_s"):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        if key == "s" or key.endswith("_s") or key.startswith("seconds_"):
            return numbers.seconds(value)
        if key.endswith("_bytes"):
            return numbers.size(value)
        return str(value) if isinstance(value, int) else f"{value:.3g}"
    return str(value)


def check_target(path: Path) -> None:
    """Refuse a file that could not be written in the end, before a long benchmark begins. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder: name a file in it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UsageError(f"--json {path}: {above} is not a folder")


def read_earlier(path: Path, name: str) -> dict[str, Any] | None:
    """What an earlier run of the benchmark `name` left at `path`; None where there is no file.

    Raises:
        UsageError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("bench") != name or not isinstance(found.get("rows"), list):
        raise UsageError(f"--json {path} holds no result of {name}: name another file, or remove this one")
    return found


def write_result(path: Path, name: str, result: BenchResult) -> None:
    """Write `{"bench", "machine", "settings", "rows", "summary"}` in one step; an older file of this name goes."""
    write_json(
        path,
        {
            "bench": name,
            "machine": machine(),
            "settings": result.settings,
            "rows": result.rows,
            "summary": result.summary,
        },
    )


def _heading(key: str) -> str:
    # The values carry their unit, so the key's goes; a rate keeps it.
    bare = key if key.endswith("_per_s") else key.removesuffix("_s").removesuffix("_bytes")
    return bare.replace("_", " ")


def _plain_keys(rows: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if not any(isinstance(row.get(key), dict | list | tuple) for row in rows)]
