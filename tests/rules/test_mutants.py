"""The table of mutants stays true: what each would change stands there, and the test it names exists."""

import re

import pytest

from tests.mutants import MUTANTS, Mutant
from tests.mutants import __main__ as runner
from tests.mutants.page import PAGE, page
from tests.rules.source import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_stands_in_the_code_once_and_its_test_exists(mutant: Mutant) -> None:
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text(encoding="utf-8").count(edit.old) == 1, edit
    file, _, name = mutant.test.partition("::")
    named = re.sub(r"\[.*", "", name).split("::")[0]
    assert re.search(rf"(def|class) {named}\b|^{named} =", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_lists_what_the_table_holds() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_test_that_hangs_is_told_apart_from_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SECONDS", 0)
    assert runner.tested(ROOT, ["tests/rules/test_mutants.py"], {}) == runner.HUNG
    assert runner.summary([runner.FAILED, runner.HUNG, runner.PASSED]).startswith("2 of 3 mutants caught, 1 of them")
    assert runner.summary([runner.FAILED]) == "1 of 1 mutants caught"
