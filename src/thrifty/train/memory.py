"""Peak memory of this process while an arm trains.

Linux keeps a high-water mark of the resident set (VmHWM) and can start it anew, so that one arm does not inherit the
peak of the arm before. Elsewhere getrusage's mark is all there is: it never falls, and the source says so.
"""

import ctypes
import gc
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"


def release() -> None:
    """Give memory that nothing uses back to the system, so that the next arm starts from the same level."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


class PeakMemory:
    """The high-water mark since `PeakMemory()` was made.

    Attributes:
        source: `VmHWM` (since then), or `ru_maxrss` (since the process began).
    """

    def __init__(self) -> None:
        try:
            _CLEAR.write_text(_CLEAR_PEAK)
            self.source = "VmHWM" if _high_water_bytes() is not None else "ru_maxrss"
        except OSError:
            self.source = "ru_maxrss"

    def bytes(self) -> int:
        """Return the mark in bytes: everything that is resident, interpreter and data included."""
        mark = _high_water_bytes() if self.source == "VmHWM" else None
        if mark is not None:
            return mark
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _high_water_bytes() -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
