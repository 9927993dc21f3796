"""Bandwidths and times as people write them: `100Gbit`, `1 GB/s`, `2us`, `0.5ms`."""

import re

from thrifty.core.errors import UsageError

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zA-Z/]*)\s*")
_BYTES_PER_S = {
    f"{scale}{unit}": factor * share
    for scale, factor in (("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9), ("t", 1e12))
    for unit, share in (("bit", 0.125), ("bit/s", 0.125), ("bps", 0.125))
} | {f"{scale}B/s": factor for scale, factor in (("", 1.0), ("k", 1e3), ("m", 1e6), ("g", 1e9), ("t", 1e12))}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_bandwidth(text: str) -> float:
    """Bytes a second of `100Gbit`, `25 Gbit/s`, `1.2GB/s`; decimal, upper or lower case, but B is bytes and b bits.

    Raises:
        UsageError: anything else, and zero.
    """
    found = _NUMBER.fullmatch(text)
    unit = found.group(2) if found else ""
    spelt = unit[:-3].lower() + unit[-3:] if unit.endswith("B/s") else unit.lower()
    if not found or spelt not in _BYTES_PER_S or float(found.group(1)) <= 0:
        raise UsageError(f"{text!r} is no bandwidth: write it as 100Gbit, 1.5Gbit/s or 12GB/s")
    return float(found.group(1)) * _BYTES_PER_S[spelt]


def parse_seconds(text: str) -> float:
    """Seconds of `2us`, `1.5 ms`, `0.2s`. Raises UsageError for anything else."""
    found = _NUMBER.fullmatch(text)
    if not found or found.group(2) not in _SECONDS:
        raise UsageError(f"{text!r} is no time: write it as 2us, 1.5ms or 0.2s")
    return float(found.group(1)) * _SECONDS[found.group(2)]
