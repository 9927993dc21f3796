"""The machine that a run, a report or a benchmark was made on, as plain JSON."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Describe this machine and the versions that matter for a timing.

    Returns:
        ``cpu`` (model name), ``cores`` (that this process may use), ``threads`` (torch's intra-op pool), ``torch``,
        ``thrifty`` and ``python`` (versions), ``isa`` (of the native kernels, None on the reference path), ``gpu``
        (name of the first device or None), ``system`` and ``date`` (UTC, ISO 8601).
    """
    import torch

    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "thrifty": thrifty_version(),
        "python": platform.python_version(),
        "isa": native_isa(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor; the architecture where the system does not tell (macOS, containers without /proc)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor can do, in Linux's words (`avx512_bf16`, `bf16`); empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thrifty_version() -> str:
    """Version of the installed distribution, or ``unknown`` when thrifty runs from a bare source tree."""
    try:
        return metadata.version("thrifty")
    except metadata.PackageNotFoundError:
        return "unknown"


def native_isa() -> str | None:
    """Instruction set that the native kernels picked, or None when they are not built."""
    from thrifty._load_native import native

    return None if native is None else str(native.isa())
