"""The site: its blocks run in the order of the page, its tables are those of the code, every public name is there."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import thrifty
from thrifty.cli.main import main
from thrifty.compose.catalog import method_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALL = ["--limit-train", "64", "--limit-test", "30", "--batch-size", "32", "--epochs", "1", "--threads", "1"]


def surroundings():
    """What a page takes for granted where it begins: a model, its optimizer, batches, and the reader's own step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(torch.randn(4, 16, 6, 6), torch.randint(4, (4,))) for _ in range(3)]

    def train_step(model, images, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return {"torch": torch, "model": model, "optimizer": optimizer, "batches": batches, "train_step": train_step}


def pages_with(pattern):
    return [pytest.param(page, id=page.stem) for page in PAGES if pattern.search(page.read_text())]


@pytest.mark.filterwarnings("ignore")  # what other packages warn of at import is theirs
@pytest.mark.parametrize("page", pages_with(PYTHON))
def test_python_blocks_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall(page.read_text())
    for package in ("lightning", "transformers", "accelerate"):
        if any(re.search(rf"^(from|import) {package}", block, re.MULTILINE) for block in blocks):
            pytest.importorskip(package)
    names = surroundings()
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def shortened(words):
    """A `thrifty train` of one epoch on few images."""
    lengths = [place for place, word in enumerate(words) if word in ("--epochs", "--limit-steps")]
    dropped = {place + more for place in lengths for more in (0, 1)}
    return [*(word for place, word in enumerate(words) if place not in dropped), *SMALL]


@pytest.mark.parametrize("page", pages_with(SHELL))
def test_blocks_of_shell_run(page, tmp_path, monkeypatch, capsys):
    """`thrifty` itself, in the order of the page, on few images."""
    monkeypatch.chdir(tmp_path)
    for line in "".join(SHELL.findall(page.read_text())).splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "thrifty", f"only thrifty's own commands are run: {line}"
        if words[1] == "train" and "--resume" not in words:
            words = shortened(words)
        with pytest.raises(SystemExit) as left:
            main(words[1:])
        assert left.value.code == 0, f"{line}\n{capsys.readouterr().err}"


def test_tables_are_those_of_the_code():
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "docs_tables.py"), "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}: run python tools/docs_tables.py"


def test_every_method_has_a_page_with_its_card():
    index = (DOCS / "methods" / "index.md").read_text()
    navigation = (ROOT / "mkdocs.yml").read_text()
    cards = {path.parent.name for path in (ROOT / "src" / "thrifty").glob("*/README.md")}
    assert set(method_names()) <= cards
    for method in cards:
        page = DOCS / "methods" / f"{method}.md"
        assert f'--8<-- "src/thrifty/{method}/README.md"' in page.read_text()
        assert f"({method}.md)" in index and f"methods/{method}.md" in navigation
        card = (ROOT / "src" / "thrifty" / method / "README.md").read_text()
        assert "## When it does not help" in card or "## What it does not do" in card
        if method in method_names():
            assert "## Measured" in card and "thrifty bench" in card


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert str(page.relative_to(DOCS)) in navigation, page


def test_links_within_the_site_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_public_name_is_in_the_api():
    text = (DOCS / "api.md").read_text()
    listed = {line.rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")}
    missing = set(thrifty.__all__) - {"__version__"} - listed
    assert not missing


def test_every_name_in_the_api_has_a_docstring():
    import importlib

    for line in (DOCS / "api.md").read_text().splitlines():
        if not line.startswith("::: ") or "integrations" in line:
            continue
        path = line.removeprefix("::: ")
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError:
            home, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(home), name)
        assert found.__doc__, path


def test_the_site_builds(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip('mkdocs is not installed: make docs, or pip install "thrifty[docs]"')
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    for name in ("index.html", "api.html", "support.html", "methods/reuse.html"):
        assert (tmp_path / "site" / name).stat().st_size > 1000
    shutil.rmtree(tmp_path / "site")


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
