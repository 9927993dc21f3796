"""Reading result.json: what is there is read, what is not is named, what cannot be read is a clear error."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.core.errors import DataError, UsageError
from thrifty.report import load
from thrifty.report.record import parse


def test_a_whole_record_is_read_without_problems(make_run_dir: Callable[[str], Path]) -> None:
    record = load(make_run_dir("whole"))
    assert record.finished and record.problems == () and record.name == "whole"
    assert [arm.name for arm in record.arms] == ["dense", "reuse"]
    reuse = record.arms[1]
    assert reuse.methods == ("reuse",) and reuse.amp == ""
    assert reuse.layers[0].total_s == pytest.approx(0.9)
    assert reuse.events[0].layer == "" and reuse.events[0].step == 260


def test_unfinished_runs_are_read_as_far_as_they_go(make_run_dir: Callable[[str], Path]) -> None:
    record = load(make_run_dir("unfinished"))
    assert not record.finished and record.problems == ()
    assert record.arms[1].test_accuracy is None
    assert record.arms[1].reached == record.arms[1].epochs[-1].test_accuracy
    assert record.arms[2].epochs == ()


def test_numbers_that_are_not_finite_count_as_missing(make_run_dir: Callable[[str], Path]) -> None:
    assert load(make_run_dir("stopped")).arms[1].epochs[1].train_loss is None


def test_wrong_types_are_named_and_left_out() -> None:
    record = parse({"arms": [{"name": "a", "train_s": "fast", "epochs": 3, "layers": [7]}], "settings": []})
    assert record.arms[0].train_s is None and record.arms[0].epochs == ()
    assert record.problems == (
        "run.settings is not an object",
        "run.arms[0].train_s is not a number",
        "run.arms[0].epochs is not a list",
        "run.arms[0].layers[0] is not an object",
    )


def test_arms_without_a_name_get_one_by_place() -> None:
    assert [arm.name for arm in parse({"arms": [{}, {"name": None}]}).arms] == ["arm 1", "arm 2"]


def test_methods_may_be_configs() -> None:
    methods = [{"_type": "Reuse", "_version": 1, "_data": {}}, "lsh"]
    assert parse({"arms": [{"methods": methods}]}).arms[0].methods == ("Reuse", "lsh")


def test_a_missing_folder_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "missing"),
        (b"", "invalid JSON at line 1, column 1"),
        (b'{"arms" [\n', "invalid JSON at line 1, column 9"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"[1, 2]", "where a JSON object is expected"),
        (b'{"format": 99}', "newer"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARM_KEYS = ("name", "methods", "epochs", "layers", "trace", "events", "train_s", "macs", "status", "test_accuracy")


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(("status", "machine", "settings", "summary", "command")), JSON),
    st.lists(st.dictionaries(st.sampled_from(ARM_KEYS), JSON), max_size=3) | JSON,
)
def test_any_json_object_becomes_a_record_a_table_and_a_page(run: dict[str, Any], arms: Any) -> None:
    from rich.console import Console

    from thrifty.report import table
    from thrifty.report.writer import page

    record = parse(json.loads(json.dumps({**run, "arms": arms})))
    Console(width=100, file=io.StringIO()).print(table(record))
    assert page(record, {}).startswith("<!doctype html>")
