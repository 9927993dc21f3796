"""Rules of the house that no other tool checks."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMITS = {"src": 400, "csrc": 400, "tests": 600, "examples": 400}
CODE = {".py", ".cpp", ".h"}


def sources(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.suffix in CODE]


@pytest.mark.parametrize("folder", LIMITS)
def test_files_stay_readable_at_a_sitting(folder: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LIMITS[folder]
    }
    assert not long, f"longer than {LIMITS[folder]} lines; part them: {long}"


def test_cmake_stays_short() -> None:
    assert len((ROOT / "CMakeLists.txt").read_text().splitlines()) <= 120


def test_kernels_know_neither_torch_nor_python() -> None:
    """Nor the STL, whose inline functions would be compiled for one instruction set and linked for all."""
    allowed = {"cmath", "cstdint", "cstring", "omp.h"}
    names = ("kernels.h", "lsh_kernels.h", "mix.h", "simd.h", "geometry.h")
    headers = [ROOT / "csrc" / "include" / "thrifty" / name for name in names]
    for path in [*(ROOT / "csrc" / "kernels").glob("*"), *headers]:
        included = set(re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text()))
        ours = {name for name in included if name.startswith("thrifty/")}
        foreign = {name for name in included - ours - allowed if not name.endswith("intrin.h")}
        assert not foreign, f"{path.name} includes {sorted(foreign)}"


def test_only_the_bindings_include_nanobind() -> None:
    users = {path.parent.name for path in sources("csrc") if "nanobind/" in path.read_text()}
    assert users == {"bindings"}


def test_every_kernel_has_a_file_a_binding_and_a_test() -> None:
    csrc = ROOT / "csrc"
    lists = "".join((csrc / "include" / "thrifty" / name).read_text() for name in ("kernels.h", "lsh_kernels.h"))
    listed = re.findall(r"^\s*X\((\w+),", lists, re.MULTILINE)
    assert {"channel_moments", "active_set"} <= set(listed)
    kernels = "".join(path.read_text() for path in (csrc / "kernels").glob("*.cpp"))
    tests = "".join(path.read_text() for path in (csrc / "tests").glob("test_*.cpp"))
    bindings = "".join(path.read_text() for path in (csrc / "bindings").glob("*.cpp"))
    for name in listed:
        assert f"void {name}(" in kernels
        assert f'm.def("{name}"' in bindings
        assert f"kernels().{name}" in tests, f"csrc/tests has no test of {name}"


def test_nothing_large_or_built_is_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in tracked.stdout.split("\0") if name]
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", ".egg-info"))]
    large = {name: size for name in names if (ROOT / name).exists() and (size := (ROOT / name).stat().st_size) > 6e6}
    assert not large, f"over 6 MB: {large}"
