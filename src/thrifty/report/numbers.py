"""Numbers as people read them. Plain ASCII, so that every terminal can print them; None becomes a dash."""

from __future__ import annotations

MISSING = "-"
_UP = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def seconds(value: float | None) -> str:
    """`0.0123` -> `12.3 ms`, `12.345` -> `12.3 s`, `754` -> `12 min 34 s`, `7500` -> `2 h 05 min`."""
    if value is None:
        return MISSING
    if abs(value) < 1e-3:
        return f"{_three(value * 1e6)} us" if value else "0 s"
    if abs(value) < 0.9995:
        return f"{_three(value * 1e3)} ms"
    if abs(value) < 99.95:
        return f"{_three(value)} s"
    whole = round(value)
    if whole < 600:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage: `0.712` -> `71.2%`."""
    return MISSING if value is None else f"{100 * value:.{digits}f}%"


def ratio(value: float | None) -> str:
    """`1.512` -> `1.51x`."""
    return MISSING if value is None else f"{value:.3g}x"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points with its sign: `-0.008` -> `-0.8`."""
    if value is None:
        return MISSING
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def plain(value: float | None) -> str:
    """Three significant digits: `0.04567` -> `0.0457`."""
    return MISSING if value is None else f"{value:.3g}"


def count(value: float | None) -> str:
    """`1234567` -> `1.23 M`; whole numbers below 1000 as they are."""
    return MISSING if value is None else _scaled(value)


def size(value: float | None) -> str:
    """Bytes in decimal units: `412e6` -> `412 MB`."""
    return MISSING if value is None else (_scaled(value) + "B" if abs(value) >= 1e3 else f"{value:.0f} B")


def _scaled(value: float) -> str:
    for unit, letter in _UP:
        # 999.5 of a unit would print as four digits; it belongs to the next unit.
        if abs(value) >= 0.9995 * unit:
            return f"{_three(value / unit)} {letter}"
    return f"{value:.3g}"


def column(values: list[float | None]) -> list[str]:
    """Numbers of one unit under each other, with the decimals that three digits of the largest need."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    decimals = next((digits for digits, top in ((3, 9.9995), (2, 99.995), (1, 999.95)) if largest < top), 0)
    return [MISSING if value is None else f"{value:.{decimals}f}" for value in values]


def _three(value: float) -> str:
    # Three significant digits with their trailing zeros: 2.6 s beside 2.58 s would look like another precision.
    return f"{value:#.3g}".rstrip(".")
