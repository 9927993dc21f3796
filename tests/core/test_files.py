"""Files written in one step, and the facts of the machine."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from thrifty.core import atomic
from thrifty.core.machine import cpu_model, machine


def test_a_file_is_replaced_whole_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic.write_text(path, "old")
    atomic.write_text(path, "n\u00e9w")
    assert path.read_text(encoding="utf-8") == "n\u00e9w"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_json_is_strict_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    nothing = {"nan": math.nan, "inf": -math.inf, "none": None}
    value = {"a": (1, np.float32(0.5)), 2: torch.tensor(3), **nothing, "yes": True}
    atomic.write_json(path, value)
    expected = {"a": [1, 0.5], "2": 3, "nan": None, "inf": None, "none": None, "yes": True}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected
    with pytest.raises(TypeError):
        atomic.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == expected


def test_the_machine_is_plain_json() -> None:
    facts = machine()
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {"cpu", "cores", "threads", "torch", "thrifty", "python", "isa", "gpu", "system", "date"}
    assert facts["cpu"] and facts["cores"] >= 1 and facts["threads"] == torch.get_num_threads()


def test_a_machine_without_cpuinfo_still_has_a_name(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "absent")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast 9000\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast 9000"
