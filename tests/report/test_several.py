"""Several runs side by side: every arm of each, broken ones named, what differs between them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from page_outline import Outline
from rich.console import Console

from thrifty.core.errors import DataError, UsageError
from thrifty.report import compare_runs, write
from thrifty.report.several import load_several


def shown(renderable: object) -> str:
    stream = io.StringIO()
    Console(width=200, file=stream).print(renderable)
    return stream.getvalue()


def test_all_arms_of_all_runs(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folders = [make_run_dir(kind) for kind in ("whole", "several", "unfinished")]
    write(folders[0])
    page, table = compare_runs(folders, tmp_path / "out" / "both.html")
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == [] and len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)
    assert outline.headings[0] == "h1" and "script" not in outline.tags and "img" not in outline.tags
    assert 'href="../whole/report.html"' in text and "several/report.html" not in text
    printed = shown(table)
    for name in ("whole", "several", "unfinished", "reuse-bf16", "dense-bf16"):
        assert name in text and name in printed
    assert {path.name for path in page.parent.iterdir()} == {
        "both.html", "both-accuracy.svg", "both-accuracy.png", "both-loss.svg", "both-loss.png"
    }  # fmt: skip


def test_a_run_that_cannot_be_read_is_named_and_hides_no_other(
    make_run_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = make_run_dir("stopped")
    (broken / "result.json").write_text("nothing")
    page, table = compare_runs([make_run_dir("whole"), broken, tmp_path / "absent"], tmp_path / "both.html")
    for text in (page.read_text(encoding="utf-8"), shown(table)):
        assert "invalid JSON" in text and "no run folder" in text and "1.51 times slower" in text


def test_hostile_names_stay_text(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    page, table = compare_runs([make_run_dir("hostile"), make_run_dir("empty")], tmp_path / "both.html")
    assert "<script" not in page.read_text(encoding="utf-8")
    assert '<script>alert("1")' in shown(table).replace("\n", "")


def test_what_differs_is_listed(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = make_run_dir("whole"), make_run_dir("several")
    record = json.loads((second / "result.json").read_text())
    record["settings"]["batch_size"], record["machine"]["threads"] = 128, 7
    (second / "result.json").write_text(json.dumps(record))
    text = compare_runs([first, second], tmp_path / "both.html")[0].read_text(encoding="utf-8")
    part = text[text.index('id="differences"') :]
    assert "batch size" in part and "128" in part and "machine threads" in part and "learning rate" not in part
    same = compare_runs([first, make_run_dir("untouched")], tmp_path / "same.html")[0].read_text(encoding="utf-8")
    assert "the same in all runs" in same


def test_runs_of_one_name_are_told_apart(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    first = make_run_dir("whole")
    second = tmp_path / "elsewhere" / "whole"
    second.mkdir(parents=True)
    (second / "result.json").write_text((first / "result.json").read_text())
    assert [record.name for record in load_several([first, second]).records] == [str(first), str(second)]


def test_wrong_usage(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = make_run_dir("whole")
    with pytest.raises(UsageError, match="named twice"):
        load_several([folder, folder / "."])
    with pytest.raises(DataError, match=r"missing.*no run folder"):
        (tmp_path / "bare").mkdir()
        load_several([tmp_path / "bare", tmp_path / "absent"])


def test_the_command(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    first, second = make_run_dir("whole"), make_run_dir("several")

    def thrifty(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "thrifty", "report", *map(str, words)], capture_output=True, text=True
        )

    run = thrifty(first, second)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "comparison.html").exists() and "comparison.html" in run.stdout
    assert thrifty(first, second, "--out", tmp_path / "x" / "y.html").returncode == 0
    assert (tmp_path / "x" / "y.html").exists()
    wrong = thrifty(first, "--out", tmp_path / "z.html")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --out is for several runs")
