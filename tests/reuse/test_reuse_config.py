"""Settings: checked when they are made, with a message that names the field, and fit to travel."""

import dataclasses
import json

import pytest

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError
from thrifty.reuse import PAPER_STAGES, Reuse, Stage


def test_the_defaults_are_valid_and_exact_and_the_papers_stages_coarse_first():
    assert Reuse().stages == ()
    stages = Reuse(stages=PAPER_STAGES).stages
    assert len(stages) >= 2
    assert [stage.length for stage in stages] == sorted((stage.length for stage in stages), reverse=True)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"skip_zeros": False}, r"Reuse\.stages is empty: give at least one Stage\(length, bits\), or PAPER_STAGES"),
        ({"linear": True}, r"Reuse\.stages is empty"),
        ({"sequences": "clusters"}, r"Reuse\.stages is empty"),
        ({"attention": "keys"}, r"Reuse\.stages is empty"),
        ({"gradients": "none"}, r"Reuse\.gradients is 'none': choose one of exact, clusters"),
        ({"stages": (Stage(0, 8),)}, r"Reuse\.stages\[0\]\.length must be at least 1 channel, got 0"),
        ({"stages": (Stage(8, 8), Stage(-3, 8))}, r"Reuse\.stages\[1\]\.length must be at least 1 channel, got -3"),
        ({"stages": (Stage(8, 0),)}, r"Reuse\.stages\[0\]\.bits must be 1 to 30, got 0"),
        ({"stages": (Stage(8, 31),)}, r"Reuse\.stages\[0\]\.bits must be 1 to 30, got 31"),
        ({"stages": (Stage(8, 8, -1),)}, r"Reuse\.stages\[0\]\.scope must be 0 \(the batch\) or .* images, got -1"),
        ({"stages": (8, 10)}, r"Reuse\.stages\[0\] is 8: expected Stage\(length, bits\)"),
        ({"stages": Stage(8, 10)}, r"Reuse\.stages must be a tuple of Stage"),
        ({"stages": None}, r"Reuse\.stages must be a tuple of Stage"),
        ({"stages": (Stage(8.5, 10),)}, r"Reuse\.stages\[0\]\.length must be a whole number, got 8\.5"),
        ({"stages": (Stage("8", 10),)}, r"Reuse\.stages\[0\]\.length must be a whole number, got '8'"),
        ({"encoder": "kmeans"}, r"Reuse\.encoder is 'kmeans': choose one of codebook, sign"),
        (
            {"stages": (Stage(8, 4), Stage(8, 13))},
            r"13 bits, a codebook takes at most 12: choose fewer, or encoder='sign'",
        ),
        ({"pieces": "rows"}, r"Reuse\.pieces is 'rows': choose one of auto, pixels, patches"),
        ({"patience": 0}, r"Reuse\.patience must be at least 1, got 0"),
        ({"smoothing_steps": 0}, r"Reuse\.smoothing_steps must be at least 1, got 0"),
        ({"min_channels": 0}, r"Reuse\.min_channels must be at least 1, got 0"),
        ({"total_steps": 0}, r"Reuse\.total_steps must be at least 1, got 0"),
        ({"min_decrease": -0.1}, r"Reuse\.min_decrease must be between 0 and 1, got -0\.1"),
        ({"dense_share": 1.5}, r"Reuse\.dense_share must be between 0 and 1, got 1\.5"),
        ({"dense_share": float("nan")}, r"Reuse\.dense_share must be between 0 and 1, got nan"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        Reuse(**settings)


def test_the_limits_themselves_are_fine():
    Reuse(stages=(Stage(1, 1), Stage(10**6, 30, 10**6)), encoder="sign")
    Reuse(stages=(Stage(1, 12),), patience=1, smoothing_steps=1, total_steps=1, min_channels=1)
    Reuse(min_decrease=0.0, dense_share=0.0)
    Reuse(min_decrease=1.0, dense_share=1.0)


def test_it_travels_as_plain_data():
    config = Reuse(stages=(Stage(9, 3, 2),), fixed=True, total_steps=7, linear=True, seed=5)
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain["_type"] == "Reuse"
    assert MethodConfig.from_dict(plain) == config


def test_damaged_data_is_refused_by_name():
    state = Reuse(stages=PAPER_STAGES).to_dict()
    state["_data"]["stages"][0]["bits"] = 99
    with pytest.raises(UsageError, match=r"stages\[0\]\.bits must be 1 to 30"):
        MethodConfig.from_dict(state)
    state["_data"]["depth"] = 3
    with pytest.raises(UsageError, match="has no field 'depth'"):
        MethodConfig.from_dict(state)


def test_settings_cannot_be_changed_afterwards():
    for settings in (Reuse(), Stage(8, 8)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.seed = 1
    assert hash(Reuse()) == hash(Reuse())
