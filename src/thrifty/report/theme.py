"""Colours by role, each in light and dark, for the page and its plots alike.

Plots are drawn once in the light colours; inside the page every such colour is replaced by the CSS variable of its
role, so they follow the reader's theme. That needs each light colour to stand for one role only. Text roles keep a
contrast of 4.5 and the colours of data 3 against both grounds; data colours stay apart for the three kinds of
colour-blindness, and lines differ in dash and marker as well.
"""

from __future__ import annotations

GROUNDS = {"paper": ("#f7f5f0", "#101316"), "card": ("#fffefb", "#181c20")}
TEXT = {
    "ink": ("#1b2026", "#e9ecef"),
    "muted": ("#575f69", "#a6afb9"),
    "good": ("#0a6640", "#5bd19b"),
    "bad": ("#a33a0c", "#ff9d75"),
}
RULES = {"line": ("#dedad1", "#2e353c"), "grid": ("#e9e6de", "#262c32")}
ARMS = {
    "arm-0": ("#565e68", "#aab3bd"),
    "arm-1": ("#1f7fd6", "#5fb0ff"),
    "arm-2": ("#c2410c", "#e66f3c"),
    "arm-3": ("#0b3d1c", "#3e8f77"),
    "arm-4": ("#a90fa1", "#fbd0fb"),
}
STAGES = {
    "hash": ("#6d1d9f", "#943aef"),
    "group": ("#4a5fe6", "#93c0f6"),
    "centroid": ("#2593b2", "#12789d"),
    "gemm": ("#1f2937", "#e8eaed"),
    "gather": ("#c27a0b", "#efa83e"),
    "scatter": ("#e0445c", "#d03454"),
    "conv": ("#7a8794", "#7f8d9b"),
}
ROLES = GROUNDS | TEXT | RULES | ARMS | STAGES
DASHES = ("-", (0, (5, 2)), (0, (2, 1.4)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v")


def light(role: str) -> str:
    """The colour that plots are drawn in and the light page shows."""
    return ROLES[role][0]


def css() -> str:
    """Custom properties of all roles, dark ones under the reader's preference; paper is always bright."""
    bright, dark = ("".join(f"--{role}:{colours[place]};" for role, colours in ROLES.items()) for place in range(2))
    return f":root{{{bright}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
