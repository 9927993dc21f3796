"""A record that breaks off is shown as far as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.errors import DataError
from thrifty.report import load, write
from thrifty.report.salvage import salvage

RECORD = {
    "status": "running",
    "arms": [{"name": 'a "quoted" \\ one', "epochs": [{"epoch": 1, "loss": 1.5}, {"epoch": 2}]}],
}


def contained(part: object, whole: object) -> bool:
    """Whether every value of `part` is the one that `whole` has there."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and contained(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(contained, part, whole))
    return part == whole


@given(st.integers(0, 400), st.sampled_from([None, 0, 1, 2]))
def test_what_is_salvaged_stood_there(cut: int, indent: int | None) -> None:
    text = json.dumps(RECORD, indent=indent)
    found = salvage(text[:cut])
    assert found is None or contained(found, RECORD)


def test_no_field_that_is_whole_is_lost() -> None:
    text = json.dumps(RECORD)
    found = salvage(text[: text.index('{"epoch": 2') + 3])
    assert found is not None and found["arms"][0]["epochs"][0] == {"epoch": 1, "loss": 1.5}


@pytest.mark.parametrize("text", ["", "[", "[1, 2", "nothing", "{", '{"a', "1" * 5000, "[" * 100_000, '{"a":' * 90_000])
def test_where_there_is_nothing_none_is_returned(text: str) -> None:
    assert salvage(text) is None


def test_a_broken_run_is_reported_with_what_stands(make_run_dir: Callable[[str], Path]) -> None:
    folder = make_run_dir("whole")
    path = folder / "result.json"
    text = path.read_text()
    path.write_text(text[: text.index('"reuse"', text.index('"arms"')) + 200])
    record = load(folder)
    assert record.arms[0].name == "dense" and len(record.arms[0].epochs) == 5
    assert "invalid JSON" in record.problems[0] and "what stands before it is shown" in record.problems[0]
    page = write(folder).read_text()
    assert "what stands before it is shown" in page and "dense" in page


def test_damage_in_the_midst(make_run_dir: Callable[[str], Path]) -> None:
    folder = make_run_dir("whole")
    path = folder / "result.json"
    text = path.read_text()
    at = text.index('"machine"') - 2
    path.write_text(text[:at] + "}}" + text[at + 2 :])
    record = load(folder)
    assert record.command.startswith("thrifty train") and record.arms == () and record.problems


def test_a_record_that_is_too_large_is_refused(
    make_run_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thrifty.report.record.MAX_BYTES", 100)
    with pytest.raises(DataError, match="more than the record of a run can have"):
        load(make_run_dir("whole"))


def test_numbers_too_long_to_read(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"arms": [{"name": "a", "macs": ' + "1" * 5000 + "}]}")
    with pytest.raises(DataError, match="invalid JSON"):
        load(tmp_path)
