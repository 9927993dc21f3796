"""The table of order and conflicts."""

import pytest

from thrifty.compose.rules import RULES, Rule, check, in_order
from thrifty.core.errors import UsageError

TABLE = (
    Rule("first", place="changes layers"),
    Rule("second", place="changes what is left", conflicts={"alone": "it wraps the layers itself"}),
    Rule("alone", place="wraps the model"),
)


def test_rows_give_the_order_and_strangers_come_last():
    names = ["own", "alone", "second", "other", "first"]
    assert [names[i] for i in in_order(names, TABLE)] == ["first", "second", "alone", "own", "other"]


def test_conflicts_hold_whichever_comes_first_or_is_already_there():
    check(["first", "second"], rules=TABLE)
    for methods, present in ([["alone", "second"], []], [["second"], ["alone"]], [["alone"], ["second"]]):
        with pytest.raises(UsageError, match="second and alone cannot be on one model: it wraps"):
            check(methods, present, TABLE)


def test_no_method_twice():
    with pytest.raises(UsageError, match="first is listed twice"):
        check(["first", "second", "first"], rules=TABLE)


def test_the_table_itself_is_sound():
    names = [rule.method for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule.place and all(other in names and reason for other, reason in rule.conflicts.items())
