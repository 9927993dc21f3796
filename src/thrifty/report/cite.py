"""Citations for the methods that were used: BibTeX, with a line on what each paper is cited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from thrifty.core.errors import UsageError
from thrifty.core.machine import thrifty_version
from thrifty.report.papers import PAPERS, USES, Paper, Use
from thrifty.report.record import Record


def methods_of(record: Record) -> list[tuple[str, Mapping[str, Any]]]:
    """The methods of a run's arms with their settings, as `bibtex` takes them."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for arm in record.arms:
        for config in arm.configs:
            data = config.get("_data")
            found.append((str(config.get("_type", "")).lower(), data if isinstance(data, dict) else {}))
    return found


def bibtex(methods: Iterable[tuple[str, Mapping[str, Any]]] | None = None) -> str:
    """The bibliography of methods with their settings; of every method and setting where None.

    thrifty itself comes first. Raises UsageError for a method that is unknown.
    """
    uses = USES if methods is None else [use for name, config in methods for use in _uses(name, config)]
    said: dict[str, list[str]] = {}
    for use in uses:
        line = f"{use.method}: {use.what}"
        if line not in said.setdefault(use.paper, []):
            said[use.paper].append(line)
    entries = [_entry(_software(), ["the library"])]
    entries += [_entry(paper, said[paper.key]) for paper in PAPERS if paper.key in said]
    return "\n\n".join(entries)


def method(word: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The method of this short name, with every paper that it can have use of, as `bibtex` takes it."""
    known = list(dict.fromkeys(use.method for use in USES))
    if word not in known:
        raise UsageError(f"'{word}' is neither the folder of a run nor a method; methods are: {', '.join(known)}")
    return [(word, {_ALL: True})]


_ALL = "*"


def _uses(name: str, config: Mapping[str, Any]) -> list[Use]:
    return [use for use in USES if use.method == name and (_ALL in config or use.holds(config))]


def _software() -> Paper:
    title = "thrifty: train the same {PyTorch} network for less compute"
    return Paper(
        "thrifty", "misc", {"author": "{thrifty contributors}", "title": title, "note": f"Version {thrifty_version()}"}
    )


def _entry(paper: Paper, said: Iterable[str]) -> str:
    lines = [f"% {line}" for line in said]
    lines.append(f"@{paper.kind}{{{paper.key},")
    lines += [f"  {name} = {{{value}}}," for name, value in paper.fields.items()]
    return "\n".join([*lines, "}"])
