"""The files of a report: complete, escaped, accessible, made anew without traces."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_outline import Outline
from rich.console import Console

from thrifty.core.errors import DataError
from thrifty.report import load, table, theme, write
from thrifty.report.markup import Html, el, join
from thrifty.report.svg import inline

PLOT_NAMES = ("accuracy", "loss", "layer-time", "remaining-ratio")
KINDS = ("whole", "several", "unfinished", "stopped", "untouched", "hostile", "deep", "planned", "empty")
ALL_PLOTS = {f"{name}.{kind}" for name in PLOT_NAMES for kind in ("svg", "png")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_gives_a_well_formed_page(report_page: Callable[[str], Path], kind: str) -> None:
    path = report_page(kind)
    assert path.name == "report.html"
    text = path.read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids)), "ids are unique over all inline plots"
    assert set(outline.references) <= set(outline.ids)
    assert outline.headings.count("h1") == 1 and outline.headings[0] == "h1"
    assert "script" not in outline.tags and "img" not in outline.tags
    assert outline.tags.count("table") == outline.tags.count("caption")
    assert '<html lang="en">' in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text) and "@import" not in text and "url(http" not in text
    assert not list(path.parent.rglob("*.part"))


def test_hostile_names_stay_text(report_page: Callable[[str], Path]) -> None:
    text = report_page("hostile").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;[bold]$x$_{y}" in text


def test_plots_are_written_as_svg_and_png(make_run_dir: Callable[[str], Path]) -> None:
    folder = make_run_dir("whole")
    write(folder)
    plots = {path.name: path.read_bytes() for path in (folder / "plots").iterdir()}
    assert set(plots) == ALL_PLOTS
    for name, data in plots.items():
        assert data.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml"), name
    again = {path.name: path.read_bytes() for path in (write(folder).parent / "plots").glob("*.svg")}
    assert all(plots[name] == data for name, data in again.items()), "the same record gives the same plots"


def test_a_new_report_takes_away_plots_that_it_has_not(make_run_dir: Callable[[str], Path]) -> None:
    folder = make_run_dir("whole")
    write(folder)
    (folder / "result.json").write_text('{"format": 1, "status": "running"}', encoding="utf-8")
    write(folder)
    assert list((folder / "plots").iterdir()) == []


def test_a_broken_record_leaves_the_old_report(make_run_dir: Callable[[str], Path]) -> None:
    folder = make_run_dir("empty")
    old = write(folder).read_bytes()
    (folder / "result.json").write_text("nothing", encoding="utf-8")
    with pytest.raises(DataError):
        write(folder)
    assert (folder / "report.html").read_bytes() == old


def test_unchanged_layers_are_shown_with_their_reason(report_page: Callable[[str], Path]) -> None:
    text = report_page("untouched").read_text(encoding="utf-8")
    assert "groups &gt; 1" in text and "no layer was changed, so nothing was timed" in text


def test_plots_can_be_told_apart_and_read_in_both_themes() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for mode in range(2):
        for ground in theme.GROUNDS.values():
            for role, colours in theme.TEXT.items():
                assert contrast(colours[mode], ground[mode]) >= 4.5, role
            for role, colours in (theme.ARMS | theme.STAGES).items():
                assert contrast(colours[mode], ground[mode]) >= 3, role
    bright = [colours[0] for colours in theme.ROLES.values()]
    assert len(set(bright)) == len(bright), "a light colour stands for one role, or plots could not be themed"


def test_inline_svg_is_themed_labelled_and_keeps_its_ids_apart() -> None:
    ink = theme.light("ink")
    drawn = f'<metadata>x</metadata><path id="p" fill="{ink}"/><use xlink:href="#p"/></svg>'
    text = f'<?xml version="1.0"?><svg width="9pt" viewBox="0 0 9 9">{drawn}'
    made = inline(text, "a-wide", 'less < "more"')
    assert made == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="less &lt; &quot;more&quot;">'
        '<path id="a-wide-p" fill="var(--ink)"/><use xlink:href="#a-wide-p"/></svg>'
    )
    with pytest.raises(ValueError, match="viewBox"):
        inline("<p>", "k", "")


def test_markup_escapes_everything_but_markup() -> None:
    assert el("p", "a<b", Html("<br>"), None, title='"', class_="x") == '<p title="&quot;" class="x">a&lt;b<br></p>'
    assert join("<", el("br")) == "&lt;<br>"


def test_the_table_says_in_words_what_was_slower(any_run_dir: Path) -> None:
    console = Console(width=120, file=io.StringIO())
    console.print(table(load(any_run_dir)))
    text = console.file.getvalue()
    if any_run_dir.name == "whole":
        assert "1.51x slower" in text and "1.51 times slower" in text and "cost more time" in text
    if any_run_dir.name == "hostile":
        assert "[bold]" in text
