"""Citations: the papers of what was used, well-formed BibTeX, every method with one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import thrifty
from thrifty.compose.catalog import method_names
from thrifty.core.errors import UsageError
from thrifty.report import load
from thrifty.report.cite import bibtex, method, methods_of
from thrifty.report.papers import PAPERS, USES
from thrifty.report.record import parse


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


def test_everything_is_cited_where_nothing_is_named() -> None:
    text = bibtex()
    assert keys(text) == ["thrifty", *(paper.key for paper in PAPERS)]
    assert text.count("{") == text.count("}")
    assert f"Version {thrifty.__version__}" in text


def test_tables_agree() -> None:
    assert {use.paper for use in USES} == {paper.key for paper in PAPERS}
    assert set(method_names()) <= {use.method for use in USES}
    for paper in PAPERS:
        assert {"author", "title", "year"} <= set(paper.fields)
        assert paper.fields["year"] in paper.key or paper.fields["year"][:2] == "20"


def test_only_what_a_setting_uses_is_cited() -> None:
    assert keys(bibtex([("reuse", {})])) == ["thrifty", "gong2020sparsetrain"]
    clusters = [("reuse", {"stages": [{"length": 8}], "skip_zeros": False})]
    assert keys(bibtex(clusters)) == ["thrifty", "ning2019adaptive", "ning2019deep"]
    assert "vyas2020fast" in keys(bibtex([("reuse", {"attention": "queries"})]))
    assert keys(bibtex([])) == ["thrifty"]


def test_a_paper_is_printed_once_with_what_it_is_for() -> None:
    text = bibtex([("reuse", {}), ("reuse", {})])
    assert text.count("gong2020sparsetrain") == 1
    assert text.count("% reuse: products that leave out zeros in training") == 1


def test_the_settings_of_a_run_count() -> None:
    record = parse({"arms": [{"methods": [thrifty.Reuse(stages=(thrifty.Stage(8, 4),)).to_dict()]}, {"methods": []}]})
    assert keys(bibtex(methods_of(record))) == ["thrifty", "ning2019adaptive", "ning2019deep", "gong2020sparsetrain"]


def test_a_method_by_name_has_all_its_papers() -> None:
    assert "vyas2020fast" in keys(bibtex(method("reuse")))
    with pytest.raises(UsageError, match="'abacus' is neither the folder of a run nor a method"):
        method("abacus")


def test_the_command(make_run_dir: Callable[[str], Path], tmp_path: Path) -> None:
    folder = make_run_dir("whole")
    for words, wanted in (([], "ning2019deep"), (["reuse"], "ning2019deep"), ([str(folder)], "@misc{thrifty,")):
        run = subprocess.run([sys.executable, "-m", "thrifty", "cite", *words], capture_output=True, text=True)
        assert run.returncode == 0 and wanted in run.stdout, run.stderr
    assert load(folder).arms[1].configs == ()  # methods that are names alone have no settings
    wrong = subprocess.run([sys.executable, "-m", "thrifty", "cite", "abacus"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: 'abacus'")
