"""Writes the report page and the plot files of a run folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from thrifty.core.atomic import write_bytes, write_text
from thrifty.report import hashed, sections, theme, words
from thrifty.report.costs import HEADING as COSTS
from thrifty.report.costs import costs
from thrifty.report.figures import figures
from thrifty.report.markup import Html, el
from thrifty.report.plots import NARROW, PLOTS, WIDE, render
from thrifty.report.record import Record, load

PAGE_NAME = "report.html"
_PARTS = {
    "arms": "Arms",
    "curves": "Curves",
    "costs": COSTS,
    "layers": "Layers",
    "hashed": "Hashed layers",
    "moves": "Controller moves",
    "setup": "Do it again",
}


def write(run_dir: Path) -> Path:
    """Write `plots/*.svg`, `plots/*.png` and `report.html` beside result.json; returns the page's path.

    Raises UsageError for a missing folder and DataError for a record that cannot be read, both before any file changes.
    """
    record = load(run_dir)
    drawn = _draw(record, run_dir / "plots")
    path = run_dir / PAGE_NAME
    write_text(path, page(record, drawn))
    return path


def page(record: Record, drawn: dict[str, dict[str, str]]) -> str:
    """The whole page. `drawn` holds SVG documents by plot name and layout (`wide`, `narrow`)."""
    parts = {
        "arms": sections.arms(record),
        "curves": figures(record, drawn),
        "costs": costs(record),
        "layers": sections.layers(record),
        "hashed": hashed.section(record),
        "moves": sections.events(record),
        "setup": sections.setup(record),
    }
    shown = {key: part for key, part in parts.items() if part is not None}
    folder = files("thrifty.report")
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=el("title", f"{record.name or 'run'}: {words.subject(record)} - thrifty"),
        style=theme.css() + (folder / "page.css").read_text(encoding="utf-8"),
        header=sections.header(record),
        nav=Html("\n".join(el("a", _PARTS[key], href=f"#{key}") for key in shown)),
        main=Html("\n".join(shown.values())),
    )


def _draw(record: Record, folder: Path) -> dict[str, dict[str, str]]:
    drawn = {}
    for name, draw in PLOTS.items():
        wide, narrow = draw(record, WIDE), draw(record, NARROW)
        if wide is None or narrow is None:
            # An earlier report of the same folder may have had this plot.
            for kind in ("svg", "png"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
            continue
        vector = render(wide, "svg")
        write_bytes(folder / f"{name}.svg", vector)
        write_bytes(folder / f"{name}.png", render(wide, "png"))
        drawn[name] = {"wide": vector.decode(), "narrow": render(narrow, "svg").decode()}
    return drawn
