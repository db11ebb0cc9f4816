"""The list of changes applies to the current code; `make mutants` runs them."""

from collections import Counter
from pathlib import Path

from tests.mutants.changes import CHANGES

ROOT = Path(__file__).parents[2]


def test_each_change_is_of_a_text_that_stands_there_once() -> None:
    code = {change.file: (ROOT / change.file).read_text(encoding="utf-8") for change in CHANGES}
    found = {(change.file, change.old): code[change.file].count(change.old) for change in CHANGES}
    assert {where: count for where, count in found.items() if count != 1} == {}


def test_no_change_is_listed_twice_or_changes_nothing() -> None:
    assert [made for made, count in Counter((c.file, c.old, c.new) for c in CHANGES).items() if count > 1] == []
    assert all(change.old != change.new for change in CHANGES)


def test_the_tests_of_each_change_are_there() -> None:
    for test in {test for change in CHANGES for test in change.tests.split()}:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name.split('[')[0]}(" in text, test
