"""The structure of an HTML page, as far as tests look at it."""

import re
from html.parser import HTMLParser


class Outline(HTMLParser):
    """Tags, ids, headings and balance of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        if named.get("id"):
            self.ids.append(str(named["id"]))
        for key in ("aria-labelledby", "href", "xlink:href"):
            value = named.get(key) or ""
            if key == "aria-labelledby" and value:
                self.references.append(value)
            elif value.startswith("#"):
                self.references.append(value[1:])
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
