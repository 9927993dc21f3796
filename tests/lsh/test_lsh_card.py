"""The Python of the method card runs as it stands."""

import gzip
import re
from pathlib import Path

import pytest
import torch
from torch import nn

CARD = Path(__file__).resolve().parents[2] / "src" / "thrifty" / "lsh" / "README.md"


def test_the_loop_of_the_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("safetensors")
    lines = CARD.read_text().splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert "LSHSoftmaxLoss(in_features=128" in code
    for large, small in {"1_000_000": "30_000", "337_067": "50", "2_812_281": "40"}.items():
        assert large in code
        code = re.sub(large, small, code)
    Path("train.txt.gz").write_bytes(gzip.compress(b"3 50 40\n1,5 0:1 49:0.5\n39 3:2\n0 1:1\n"))
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 128), nn.ReLU())
    names = {"torch": torch, "body": body}
    names["batches"] = [(torch.randn(4, 6), torch.randint(30_000, (4,))) for _ in range(3)]
    exec(compile(code, "card", "exec"), names)
    assert names["ids"].shape == (4, 10) and names["head"].index is not None
    assert torch.equal(names["head"].scores(body(names["x"])).gather(1, names["ids"]).argmax(1), torch.zeros(4).long())
    assert names["labels"].weight.grad is not None
