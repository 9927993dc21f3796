"""Writes the tables of the documentation that come from tables in the code: `python tools/docs_tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. `--check` changes nothing, and fails where one is old.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from thrifty.compose import rules, support

DOCS = Path(__file__).resolve().parents[1] / "docs"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def order() -> str:
    """Methods in the order in which they act, with the reason."""
    rows = [f"| {place} | {rule.method} | {rule.place} |" for place, rule in enumerate(rules.RULES, start=1)]
    conflicts = [
        f"| {rule.method} and {other} | | do not go together: {reason} |"
        for rule in rules.RULES
        for other, reason in rule.conflicts.items()
    ]
    return "\n".join(["| | method | why there |", "|---|---|---|", *rows, *conflicts])


TABLES: dict[str, Callable[[], str]] = {"support": support.markdown, "order": order}


def filled(text: str) -> str:
    """The page with every table in it made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


def main() -> None:
    """Write the pages whose tables have changed, or with `--check` name them."""
    stale = []
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    if stale:
        print("tables of another state:" if "--check" in sys.argv else "written:", ", ".join(stale))
    sys.exit(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
