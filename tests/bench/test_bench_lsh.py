"""The benchmarks of wide layers on data so small that they take a moment: every key of the design is there."""

import pytest
import torch
from rich.console import Console

from thrifty.bench import lsh_inference, lsh_kdd17, lsh_width, lsh_xmc
from thrifty.core.errors import UsageError
from thrifty.data import Augment, ImageData, ImageSplit, read_xc

pytestmark = pytest.mark.filterwarnings("ignore::thrifty.lsh.SlowerThanDenseWarning")


def test_width(monkeypatch):
    monkeypatch.setattr(lsh_width, "WIDTHS", (10_000, 20_000))
    result = lsh_width.run.run(quick=True, console=Console(quiet=True))
    keys = {"n", "batch", "dense_step_s", "sampled_step_s", "lsh_step_s", "speedup", "extra_bytes"}
    assert all(keys <= set(row) for row in result.rows) and result.summary["exponent"] is not None
    assert lsh_width._slope([(10, 1.0), (1000, 10.0)]) == pytest.approx(0.5)


def test_inference(monkeypatch):
    monkeypatch.setattr(lsh_inference, "SETTINGS", ((8, 100),))
    monkeypatch.setattr(lsh_inference.importlib.util, "find_spec", lambda name: None)
    result = lsh_inference.run.run(quick=True, console=Console(quiet=True))
    assert {row["method"] for row in result.rows} == {
        "brute force", "lsh sim, 8 probes, 100 scored", "lsh fitted, 8 probes, 100 scored",
    }  # fmt: skip
    assert result.rows[0]["recall10"] == 1.0 and all(0 < row["recall10"] <= 1 for row in result.rows)


def test_xmc_networks_and_precision(tmp_path):
    lines = "\n".join(f"{i % 5},5 {i % 7}:1 {7 + i % 3}:0.5" for i in range(60))
    (tmp_path / "x.txt").write_text(f"60 10 6\n{lines}\n")
    rows = read_xc(tmp_path / "x.txt")
    perfect = torch.stack([torch.arange(60) % 5, torch.full((60,), 5), *[torch.full((60,), -1)] * 3], 1)
    found = lsh_xmc._quality(perfect, rows, rows)
    assert {key: found[key] for key in ("p1", "p3", "p5")} == pytest.approx({"p1": 100, "p3": 200 / 3, "p5": 40})
    assert [found["psp5"], found["ndcg5"]] == pytest.approx([100, 100])
    networks = lsh_xmc._networks(rows, rows, epochs=30)
    assert [found["method"] for found in networks] == ["dense", "lsh", "lsh, forced"]
    assert all(found["p1"] > 90 and found["fit_s"] > 0 for found in networks)
    assert networks[0]["p3"] == pytest.approx(networks[1]["p3"], abs=3)  # the same training, to rounding


def test_kdd17_arms():
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(192) % 3
    images = (labels * 80)[:, None, None, None] + torch.randint(30, (192, 6, 6, 1), generator=source)
    split = ImageSplit(images.to(torch.uint8), labels)
    half = torch.full((1,), 0.5)
    data = ImageData("tiny", split, split, tuple("abc"), half, half, "made", Augment(crop_padding=1))
    choices = lsh_kdd17.Choices(epochs=12)
    for method in ("dense", *lsh_kdd17.METHODS):
        row = lsh_kdd17._train(data, 1, method, 1.0 if method == "dense" else 0.25, choices)
        assert row["accuracy"] > 0.6, method
        assert row["macs"] < 0.3 * row["dense_macs"] if method == "lsh" else row["macs"] <= row["dense_macs"]


def test_kdd17_on_generated_images():
    words = ["sets=rectangles,convex", "layers=1", "methods=lsh", "limit_train=200", "limit_test=100"]
    result = lsh_kdd17.run.run(quick=True, console=Console(quiet=True), options=words)
    assert [(row["data"], row["method"]) for row in result.rows] == [
        ("rectangles", "dense"), ("rectangles", "lsh"), ("convex", "dense"), ("convex", "lsh"),
    ]  # fmt: skip
    assert {"data", "layers", "method", "active", "accuracy", "macs", "train_s"} <= set(result.rows[0])
    assert all(found["macs_saved"] > 0.9 for found in result.summary.values())


def test_kdd17_in_pieces_is_the_whole():
    words = ["sets=rectangles", "layers=1", "limit_train=100", "limit_test=50"]

    def piece(*more, earlier=None):
        result = lsh_kdd17.run.run(quick=True, console=Console(quiet=True), options=[*words, *more], earlier=earlier)
        return {"settings": result.settings, "rows": result.rows, "summary": result.summary}

    def facts(found):
        rows = [{key: value for key, value in row.items() if not key.endswith("_s")} for row in found["rows"]]
        return sorted(rows, key=lambda row: (row["method"], row["active"]))

    first = piece("methods=lsh")
    both = piece("methods=dropout,wta", earlier=first)
    assert facts(both) == facts(piece("methods=dropout,wta,lsh"))
    assert both["summary"].keys() == first["summary"].keys()
    assert len(piece("methods=dropout", "lr=0.01", earlier=both)["rows"]) == 2  # trained in another way: not kept


@pytest.mark.parametrize(
    "word", ["sets=mnist", "methods=best", "layers=0", "layers=two", "shares=1.5", "epochs=0", "epochs.lsh=3"]
)
def test_kdd17_choices_that_cannot_be_meant(word):
    with pytest.raises(UsageError, match="--set"):
        lsh_kdd17._choices(False, [word])
