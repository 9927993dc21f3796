"""What `thrifty doctor` finds out, as plain rows: a section per topic, and what should be mended."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

Rows = list[tuple[str, str]]

# optional package -> (the extra that brings it, what it is for)
OPTIONAL = {
    "accelerate": ("accelerate", "thrifty.integrations.accelerate"),
    "lightning": ("lightning", "thrifty.integrations.lightning"),
    "tensorboard": ("tensorboard", "event files of `thrifty train`"),
    "transformers": ("transformers", "thrifty.integrations.transformers"),
}


@dataclass
class Diagnosis:
    """Rows (name, value) per section, in the order to show them, and warnings of one line each."""

    sections: dict[str, Rows] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def diagnose() -> Diagnosis:
    """Look at this process and this machine; imports torch and the native kernels, changes nothing."""
    found = Diagnosis()
    found.sections["Versions"] = _versions()
    found.sections["Native kernels"] = _native(found.warnings)
    found.sections["Threads"] = _threads(found.warnings)
    found.sections["Devices"] = _devices()
    found.sections["Data"] = _data(found.warnings)
    found.sections["Extras"] = _extras()
    return found


def openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str] | None:
    """Paths of the OpenMP runtimes mapped into this process; None where the system does not tell."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp")))


def _versions() -> Rows:
    rows = [(name, _version(name)) for name in ("thrifty", "torch", "numpy")]
    return [*rows, ("python", platform.python_version()), ("system", platform.platform(terse=True))]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _native(warnings: list[str]) -> Rows:
    from thrifty._load_native import native, reason

    if native is None:
        warnings.append(f"native kernels: {reason}")
        return [("built", "no"), ("reason", str(reason)), ("instead", "the pure-torch reference path, which is slower")]
    asked = os.environ.get("THRIFTY_ISA")
    return [
        ("built", "yes"),
        ("ISA", native.isa() + (" (asked for by THRIFTY_ISA)" if asked else " (the best one here)")),
        ("usable ISAs", ", ".join(native.isas())),
    ]


def _threads(warnings: list[str]) -> Rows:
    import torch

    from thrifty._load_native import native

    rows = [("torch", str(torch.get_num_threads()))]
    if native is not None:
        rows.append(("native", str(native.max_threads())))
    runtimes = openmp_runtimes()
    if runtimes is None:
        return [*rows, ("OpenMP runtimes", "this system does not list them")]
    if len(runtimes) > 1:
        warnings.append(
            f"{len(runtimes)} OpenMP runtimes are in this process ({', '.join(runtimes)}): their threads compete; "
            "import torch before anything else, and build thrifty against the libgomp that torch uses"
        )
    return [*rows, *[("OpenMP runtime", path) for path in runtimes or ["none"]]]


def _devices() -> Rows:
    import torch

    from thrifty.core.machine import cpu_model, usable_cores

    rows = [("cpu", f"{cpu_model()}, {usable_cores()} cores usable")]
    if not torch.cuda.is_available():
        return [*rows, ("gpu", "none that torch can use")]
    return [*rows, *[("gpu", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]]


def _data(warnings: list[str]) -> Rows:
    from thrifty.core.errors import UsageError
    from thrifty.data import known_sets

    root = os.environ.get("THRIFTY_DATA")
    looked = ("looked in", root if root else "~/.cache/thrifty (THRIFTY_DATA is not set)")
    try:
        sets = known_sets()
    except UsageError as error:
        warnings.append(str(error))
        return [looked]
    return [looked, *[(known.name, str(known.found) if known.found else f"missing; {known.how}") for known in sets]]


def _extras() -> Rows:
    rows: Rows = []
    for package, (extra, purpose) in OPTIONAL.items():
        if util.find_spec(package) is not None:
            rows.append((package, _version(package)))
        else:
            rows.append((package, f'missing (for {purpose}); get it with: pip install "thrifty[{extra}]"'))
    return rows
