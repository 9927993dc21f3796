"""`package.module:function`: the user's own networks and what may be wrong with them."""

import pytest
from torch import nn

from thrifty import models
from thrifty.core.errors import ModelError, UsageError


def test_function_gets_the_keywords_that_it_accepts():
    model = models.build("tiny_nets:net", num_classes=5, in_channels=1, image_size=(6, 4))
    assert model[0].in_channels == 1 and model[-1].out_features == 5 and model[-1].in_features == 16 * 3 * 2


def test_function_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_nets.py").write_text(
        "from torch import nn\ndef build(**keywords):\n    return nn.Linear(1, keywords['num_classes'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])
    assert models.build("my_own_nets:build", num_classes=4).out_features == 4


def test_class_inside_a_module():
    assert isinstance(models.build("torch.nn:Identity", num_classes=2), nn.Identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_nets:", "write package.module:function"),
        (":net", "write package.module:function"),
        ("no_such_module_here:net", "cannot import no_such_module_here"),
        ("tiny_nets:absent", "has no 'absent'"),
        ("tiny_nets:NUMBER", "not a function or class but int"),
        ("tiny_nets:needs_more", "needs an argument 'secret'"),
    ],
)
def test_wrong_names_are_wrong_usage(name, message):
    with pytest.raises(UsageError, match=message):
        models.build(name, num_classes=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_nets:raises", "failed with ValueError: no such thing"),
        ("tiny_nets:not_a_module", "returned str: it must return a torch.nn.Module"),
    ],
)
def test_failing_functions_are_told_apart_from_wrong_names(name, message):
    with pytest.raises(ModelError, match=message):
        models.build(name, num_classes=3)
