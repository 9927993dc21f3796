"""The table of methods."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import nn

from thrifty.core.config import MethodConfig
from thrifty.core.counters import LayerCounters
from thrifty.core.errors import UsageError
from thrifty.core.registry import ChangedLayer, Method, method_of, register_method


@dataclass(frozen=True)
class Registered(MethodConfig):
    method: ClassVar[str] = "registered"


@dataclass(frozen=True)
class Derived(Registered):
    pass


@dataclass(frozen=True)
class Nameless(MethodConfig):
    pass


class Undecorated(Registered):
    pass


def test_registered_configs_are_found_by_exact_type():
    method = Method(handlers={})
    register_method(Registered, method)
    assert method_of(Registered()) is method
    with pytest.raises(UsageError, match=r"Derived is not a registered method config; known here: .*Registered"):
        method_of(Derived())
    with pytest.raises(UsageError, match=r"Registered is a class: pass an instance, Registered\(\)"):
        method_of(Registered)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict, "not a dataclass derived from MethodConfig"),
        (Registered(), "not a dataclass derived from MethodConfig"),
        (Undecorated, r"must be decorated with @dataclass\(frozen=True\)"),
        (Nameless, "must set the class variable `method`"),
    ],
)
def test_what_cannot_be_registered(config, message):
    with pytest.raises(TypeError, match=message):
        register_method(config, Method(handlers={}))


def test_changed_layers_are_known_by_what_they_offer():
    class Changed(nn.Linear):
        method = "x"
        counters = LayerCounters()

        def trace_row(self):
            return None

        def to_stock(self):
            return self

    assert isinstance(Changed(1, 1), ChangedLayer)
    assert not isinstance(nn.Linear(1, 1), ChangedLayer)
