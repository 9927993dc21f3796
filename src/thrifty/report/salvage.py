"""What still stands of JSON that breaks off or is damaged: everything before the break, brackets closed."""

from __future__ import annotations

import json
from typing import Any


def salvage(text: str) -> dict[str, Any] | None:
    """Return the longest object that the beginning of `text` holds; None where it holds none with a field in it."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        # The decoder names the first place that cannot be; a cut-off string is named by its beginning.
        found = _closed(text[: error.pos])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found else None


def _closed(text: str) -> Any:
    """Cut after the last value that is whole, and close what is open there."""
    opened: list[str] = []
    cut, closing = 0, ""
    inside = escaped = False
    for place, sign in enumerate(text):
        if inside:
            inside, escaped = escaped or sign != '"', sign == "\\" and not escaped
        elif sign == '"':
            inside = True
        elif sign in "[{":
            opened.append("]" if sign == "[" else "}")
            cut, closing = place + 1, "".join(reversed(opened))
        elif sign in "]}" and opened:
            opened.pop()
            cut, closing = place + 1, "".join(reversed(opened))
        elif sign == ",":
            cut, closing = place, "".join(reversed(opened))
        if len(opened) > 100:
            return None
    try:
        return json.loads(text[:cut] + closing)
    except (ValueError, RecursionError):
        return None
