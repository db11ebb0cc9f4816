import pytest

from transformer.config import UserError
from transformer.registry import Registry


def test_own_parts_come_in_and_may_come_in_anew():
    table = Registry("model.thing", {"given": 1})
    table["mine"] = 2
    table["mine"] = 3
    assert (table.find("mine"), table.find("given")) == (3, 1)


def test_a_part_of_this_code_is_not_replaced():
    table = Registry("model.thing", {"given": 1})
    for take in (table.update, table.__ior__, lambda new: table.__setitem__("given", new["given"])):
        with pytest.raises(UserError, match=r"model\.thing 'given' is built in"):
            take({"given": 2})
    assert table.find("given") == 1


def test_an_unknown_name_lists_what_there_is_the_nearest_first():
    table = Registry("model.thing", {"one": 1, "rotary": 2})
    with pytest.raises(UserError, match=r"unknown model\.thing 'rotery'; there are: rotary, one .*--parts FILE"):
        table.find("rotery")
