"""Files of measured profiles and plans that are damaged or somebody else's: one line, whatever they hold."""

import json

import pytest

from thrifty.core.errors import CheckpointError
from thrifty.distributed import GradientProfile, TransferCost, make_plan
from thrifty.distributed.saved import Circumstances, Measured, read, save

NOW = Circumstances("0f", "", ("here", "there"), "gloo", "cpu", 1, "2.6")
PROFILE = GradientProfile(("b", "a"), (4, 400), (0.25, 0.5), 0.5, 0.25, (0.125, 0.0))
COST = TransferCost((0.0, 1024.0), (0.125, 0.25), (0.125, 0.375))
MEASURED = Measured(NOW, PROFILE, COST, make_plan(PROFILE, COST, in_flight=2))


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "plan.json", MEASURED)
    return tmp_path / "plan.json"


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_what_was_saved_is_read(path):
    assert read(path) == MEASURED


@pytest.mark.parametrize(
    ("part", "field", "value", "match"),
    [
        ("profile", "backward_s", 10**400, "expected float"),
        ("profile", "sizes_bytes", [4, 10**30], "larger than any memory"),
        ("profile", "backward_s", float("nan"), "finite"),
        ("plan", "buckets", [["a", "b"]], "of other gradients"),
        ("plan", "bucket_bytes", [1] * 7, "sizes of its buckets"),
        ("plan", "bucket_bytes", [-1], "sizes of its buckets"),
        ("plan", "in_flight", 0, "sizes of its buckets"),
        ("plan", "predicted_s", float("inf"), "no time"),
        ("cost", "both_s", [0.0, 0.0], "two transfers"),
        ("circumstances", "threads", "1\n2", "expected int"),
    ],
)
def test_numbers_that_cannot_be_are_refused(path, part, field, value, match):
    told = json.loads(path.read_text())
    told[part][field] = value
    path.write_text(json.dumps(told))
    refused(path, match)


def test_a_file_that_nests_without_end(path):
    path.write_text('{"format": 1, "profile": ' + "[" * 200_000)
    refused(path, "nest too deep")


def test_a_message_quotes_the_beginning_of_what_it_is_about(path):
    path.write_text(json.dumps({"format": 1, "y" * 100_000: 1}))
    refused(path, "has no field 'yyy")
