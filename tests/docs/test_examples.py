"""Every example runs, on few images, and the set stays in step: short, alike in its options, documented."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"with_lightning": "lightning", "with_transformers": "transformers", "with_accelerate": "accelerate"}
# words for a short run, and what its output must hold
_IMAGES = (["--epochs", "1", "--images", "128"], r"\d\.\d % of 128 test images\n(.*\n)*.*% of the dense multiply-adds")
SHORT = {
    "data_parallel": (["--epochs", "1", "--images", "256"], r"epoch 1: loss \d"),
    "million_classes": (["20000", "20"], r"step 20: loss \d"),
    "next_item": (["items.npz", "--epochs", "1"], r"epoch 1: HR@10 \d"),
    "own_loop": _IMAGES,
    "with_accelerate": _IMAGES,
    "with_lightning": _IMAGES,
    "with_transformers": _IMAGES,
}
LAUNCHER = {"data_parallel": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
LINES, MOST_LINES = 60, 100


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES} == set(SHORT)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    needed = NEEDS.get(path.stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    words, wanted = SHORT[path.stem]
    chosen = np.random.default_rng(0).integers(1, 50, 300)
    np.savez(tmp_path / "items.npz", items=chosen, offsets=np.arange(0, 301, 10))
    command = [sys.executable, *LAUNCHER.get(path.stem, []), str(path), *words]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "THRIFTY_DATA": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert re.search(wanted, run.stdout), run.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_says_how_it_is_run(path):
    text = path.read_text()
    assert len(text.splitlines()) <= (LINES if path.stem in NEEDS else MOST_LINES)
    said = ast.get_docstring(ast.parse(text)) or ""
    assert f"examples/{path.name}" in said.splitlines()[0]
    if path.stem in NEEDS:
        assert f'pip install "thrifty[{NEEDS[path.stem]}]"' in said


def test_the_documentation_names_the_examples():
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert "`examples/`" in pages
