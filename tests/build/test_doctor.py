"""`thrifty doctor` says what is there, what is missing and how to get it."""

import subprocess
import sys
from pathlib import Path

import pytest

from thrifty import _load_native
from thrifty._load_native import native
from thrifty.cli.diagnosis import diagnose, openmp_runtimes
from thrifty.cli.doctor import doctor

MAPS = """\
7f10-7f20 r-xp 00000000 08:01 11 /usr/lib/libc.so.6
7f20-7f30 r-xp 00000000 08:01 12 /env/torch/lib/libgomp.so.1
7f30-7f40 rw-p 00001000 08:01 12 /env/torch/lib/libgomp.so.1
7f40-7f50 r-xp 00000000 08:01 13 /env/a folder/libgomp-e985bcbb.so.1.0.0
7f50-7f60 rw-p 00000000 00:00 0 [heap]
7f60-7f70 rw-p 00000000 00:00 0
"""


def test_sections_and_exit_code() -> None:
    run = subprocess.run([sys.executable, "-m", "thrifty", "doctor"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    titles = [line for line in run.stdout.splitlines() if line and not line.startswith(" ")]
    assert titles[:6] == ["Versions", "Native kernels", "Threads", "Devices", "Data", "Extras"]
    if native is not None:
        assert native.isa() in run.stdout


def test_missing_kernels_are_a_warning_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_load_native, "native", None)
    monkeypatch.setattr(_load_native, "reason", "not built; install a C++17 compiler")
    doctor()
    shown = capsys.readouterr().out
    assert "warning: native kernels: not built; install a C++17 compiler" in shown
    assert "reference path" in shown


def test_two_openmp_runtimes_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = tmp_path / "maps"
    maps.write_text(MAPS)
    expected = ["/env/a folder/libgomp-e985bcbb.so.1.0.0", "/env/torch/lib/libgomp.so.1"]
    assert openmp_runtimes(maps) == expected
    monkeypatch.setattr("thrifty.cli.diagnosis.openmp_runtimes", lambda: expected)
    warnings = diagnose().warnings
    assert any(warning.startswith("2 OpenMP runtimes are in this process") for warning in warnings)


def test_a_system_that_does_not_list_its_libraries(tmp_path: Path) -> None:
    assert openmp_runtimes(tmp_path / "absent") is None


def test_data_is_listed_with_the_way_to_get_it() -> None:
    rows = dict(diagnose().sections["Data"])
    assert "looked in" in rows
    assert {"fashion-mnist-slice", "cifar10"} <= set(rows)


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thrifty.cli.diagnosis.util.find_spec", lambda name: None)
    assert 'pip install "thrifty[tensorboard]"' in dict(diagnose().sections["Extras"])["tensorboard"]
