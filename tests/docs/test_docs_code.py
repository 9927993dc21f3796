"""The Python in README and method cards runs as it stands, on a small model, and the commands they name exist."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import thrifty

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "src" / "thrifty").glob("*/README.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks():
    return [
        pytest.param(block, id=f"{page.parent.name}-{page.stem}-{i}")
        for page in PAGES
        for i, block in enumerate(BLOCK.findall(page.read_text()))
        if "distributed.join" not in block  # needs two processes: tests/distributed
    ]


def surroundings():
    """What the pages take for granted: a model, its optimizer, batches, and the reader's own step."""
    model = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(torch.randn(4, 16, 6, 6), torch.randint(4, (4,))) for _ in range(3)]

    def train_step(model, images, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return {"model": model, "optimizer": optimizer, "batches": batches, "train_step": train_step}


@pytest.mark.filterwarnings("ignore::thrifty.distributed.precision.PrecisionWarning")  # machines without bfloat16
@pytest.mark.parametrize("block", blocks())
def test_python_blocks_run(block):
    names = surroundings()
    exec(compile(block, "page", "exec"), names)
    if "applied" not in names:
        return  # a page about something else: to run through is all it promises
    assert names["applied"].steps == 3
    assert [report.action for report in names["applied"].layers] == ["reuse", "dense"]
    assert type(names["model"][0]) is nn.Conv2d  # the pages end with remove_


def test_there_are_blocks_to_run():
    assert len(blocks()) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_named_commands_and_benchmarks_exist(page):
    from thrifty.bench.registry import MODULES
    from thrifty.cli.main import app

    commands = {command.name for command in app.registered_commands}
    for command, word in re.findall(
        r"`?thrifty (train|plan|bench|report|cite|simulate|doctor)\b *([\w-]*)", page.read_text()
    ):
        assert command in commands
        if command == "bench" and word and not word.startswith("-"):
            assert word in MODULES


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.parent.name + page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_public_names_are_there():
    for name in thrifty.__all__:
        assert getattr(thrifty, name) is not None
