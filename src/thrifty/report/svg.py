"""A plot's SVG made fit to stand inside the page: themed, named for screen readers, with ids of its own."""

from __future__ import annotations

import re
from html import escape

from thrifty.report.theme import ROLES

_COLOURS = {colours[0]: f"var(--{role})" for role, colours in ROLES.items()}
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_OPEN = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="[^"]*"')
_IDS = re.compile(r'\bid="|\bxlink:href="#|url\(#')
_LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)


def inline(text: str, key: str, label: str) -> str:
    """Turn a matplotlib SVG document into an element for HTML.

    Args:
        text: the document.
        key: prefix that keeps ids apart from those of other plots in the page; letters, digits and dashes.
        label: what the plot shows, read out in its place.
    """
    opened = _OPEN.search(text)
    view_box = _VIEW_BOX.search(opened.group()) if opened else None
    if opened is None or view_box is None:
        raise ValueError("not an SVG document with a viewBox")
    body = _LEFT_OUT.sub("", text[opened.end() :])
    body = _IDS.sub(lambda found: f"{found.group()}{key}-", body)
    body = _HEX.sub(lambda found: _COLOURS.get(found.group(), found.group()), body)
    return f'<svg {view_box.group()} role="img" aria-label="{escape(label)}">{body.strip()}'
