"""What pip builds: with the package's data, and, without a compiler, a pure-Python wheel rather than a failure."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core")
pytest.importorskip("nanobind")

ROOT = Path(__file__).parents[2]


def build(folder: Path, **environment: str) -> tuple[zipfile.ZipFile, str]:
    """Build a wheel of the checkout without isolation, so without a network, leaving nothing in the checkout."""
    run = subprocess.run(
        [
            *[sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir"],
            *["--config-settings", f"build-dir={folder / 'build'}", "--wheel-dir", str(folder), str(ROOT)],
        ],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel), run.stdout + run.stderr


def test_wheel_without_native_code_on_request(tmp_path: Path) -> None:
    wheel, _ = build(tmp_path, THRIFTY_NO_NATIVE="1")
    names = wheel.namelist()
    assert "py3-none-any" in str(wheel.filename)
    assert {"thrifty/py.typed", "thrifty/__init__.py", "thrifty/cli/main.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("thrifty/data/") and not name.endswith(".py") for name in names), "no packaged data"
    assert not [name for name in names if name.startswith(("tests/", "csrc/")) or "_native.c" in name]


def test_wheel_without_a_compiler_says_so_and_is_pure_python(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-compiler")
    wheel, log = build(tmp_path, CXX=missing, CC=missing)
    assert "no working C++ compiler found, so the native kernels are left out" in " ".join(log.split())
    names = wheel.namelist()
    assert "thrifty/py.typed" in names
    assert not [name for name in names if "_native.c" in name]
