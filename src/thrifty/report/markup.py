"""HTML from nested calls. Plain strings are escaped wherever they stand; only `Html` goes in as it is."""

from __future__ import annotations

from html import escape

VOID = frozenset({"meta", "br", "hr", "link"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(tag: str, *children: str | None, **attributes: str | None) -> Html:
    """One element. A trailing underscore is dropped from attribute names, inner ones become dashes; None is left out.

    `el("td", "a < b", class_="num", data_label="MACs")` -> `<td class="num" data-label="MACs">a &lt; b</td>`
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{named}>")
    return Html(f"<{tag}{named}>{join(*children)}</{tag}>")


def join(*children: str | None) -> Html:
    """Siblings one after another."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))
