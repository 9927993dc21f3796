"""Configs as plain data and back."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty.core.config import MethodConfig
from thrifty.core.errors import UsageError


@dataclass(frozen=True)
class Step:
    length: int
    scope: Literal["image", "batch"] = "image"


@dataclass(frozen=True)
class Sample(MethodConfig):
    method: ClassVar[str] = "sample"
    version: ClassVar[int] = 3
    stages: tuple[Step, ...] = (Step(4), Step(2, "batch"))
    rate: float = 0.5
    limit: int | None = None
    pair: tuple[int, str] = (1, "a")
    flags: dict[str, bool] | None = None
    names: list[str] | None = None
    extra: Any = None

    def validate(self) -> None:
        if self.rate < 0:
            raise UsageError(f"Sample.rate must not be negative, got {self.rate}")


@dataclass(frozen=True)
class Needy(MethodConfig):
    method: ClassVar[str] = "needy"
    size: int


steps = st.builds(Step, st.integers(), st.sampled_from(["image", "batch"]))
samples = st.builds(
    Sample,
    stages=st.lists(steps).map(tuple),
    rate=st.floats(0, allow_infinity=False),
    limit=st.none() | st.integers(),
    pair=st.tuples(st.integers(), st.text()),
    flags=st.none() | st.dictionaries(st.text(), st.booleans()),
    names=st.none() | st.lists(st.text()),
    extra=st.none() | st.integers() | st.text(),
)


@given(samples)
def test_there_and_back_through_json(config):
    state = json.loads(json.dumps(config.to_dict()))
    assert Sample.from_dict(state) == config
    assert MethodConfig.from_dict(state) == config


def test_the_form():
    state = Needy(size=3).to_dict()
    assert state == {"_type": "Needy", "_version": 1, "_data": {"size": 3}}
    assert Sample().to_dict()["_data"]["stages"][1] == {"length": 2, "scope": "batch"}


def test_absent_fields_take_their_defaults():
    assert Sample.from_dict({"_type": "Sample", "_version": 3, "_data": {"rate": 1}}) == Sample(rate=1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sise": 1}, "Needy has no field 'sise'; its fields are: size"),
        ({}, "Needy lacks the field 'size'; its fields are: size"),
        ({"size": 1.5}, r"Needy\.size: expected int, got 1\.5"),
        ({"size": True}, r"Needy\.size: expected int, got True"),
        ([], "expected a dictionary of its fields, got list"),
    ],
)
def test_wrong_fields(data, message):
    with pytest.raises(UsageError, match=message):
        Needy.from_dict({"_type": "Needy", "_version": 1, "_data": data})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rate": -1.0}, "must not be negative"),
        ({"rate": "1"}, r"Sample\.rate: expected float, got '1'"),
        ({"limit": "no"}, r"Sample\.limit: expected int or NoneType, got 'no'"),
        ({"stages": [{"length": 1, "scope": "all"}]}, r"Sample\.stages\[0\]\.scope: expected Literal"),
        ({"stages": [{"width": 1}]}, r"Sample\.stages\[0\] has no field 'width'; its fields are: length, scope"),
        ({"stages": 3}, r"Sample\.stages: expected tuple"),
        ({"pair": [1]}, r"Sample\.pair: expected 2 values, got 1"),
    ],
)
def test_wrong_values(data, message):
    with pytest.raises(UsageError, match=message):
        MethodConfig.from_dict({"_type": "Sample", "_version": 3, "_data": data})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_type": "Nothing", "_version": 1, "_data": {}}, "unknown config type 'Nothing'; known here: .*Sample"),
        ({"_type": [], "_version": 1, "_data": {}}, "unknown config type"),
        ({"_type": "Sample", "_version": 4, "_data": {}}, "version 4, this thrifty reads 3"),
        ({"_type": "Sample"}, "absent: _version, _data"),
        ("Sample", "absent: _type, _version, _data"),
    ],
)
def test_wrong_states(state, message):
    with pytest.raises(UsageError, match=message):
        MethodConfig.from_dict(state)
    with pytest.raises(UsageError, match=r"known here: Needy$"):
        Needy.from_dict({"_type": "Sample", "_version": 3, "_data": {}})


def test_direct_construction_is_validated():
    with pytest.raises(UsageError, match="must not be negative"):
        Sample(rate=-1.0)


def test_what_is_not_plain_cannot_be_held():
    with pytest.raises(UsageError, match="a config cannot hold set"):
        Sample(extra={1}).to_dict()


def test_two_configs_of_one_name_are_an_error():
    with pytest.raises(TypeError, match="two configs are named Needy"):
        type("Needy", (MethodConfig,), {"__module__": "elsewhere"})
