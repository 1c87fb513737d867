"""The list of equivalent mutants is of the code as it is, and the tool undecorates what it must."""

import libcst as cst
import pytest

from tests.mutation.__main__ import ROOT, SAMPLED, TESTS, Survivor, Undecorated, is_listed, listed


@pytest.mark.parametrize("module", TESTS)
def test_each_equivalent_mutant_is_of_a_line_that_is_there_and_has_a_reason(module):
    source = " ".join((ROOT / "sparseae" / module).read_text().split())
    for entry in listed(module):
        assert set(entry) == {"module", "line", "mutant", "reason"}
        assert entry["reason"]
        assert entry["module"] == "*" or entry["line"] in source


def test_what_is_sampled_has_tests():
    assert set(SAMPLED) <= set(TESTS)


def test_a_decorator_becomes_a_call_behind_the_function():
    source = "@one\n@two(3)\ndef f(): pass\n@staticmethod\ndef g(): pass\n"
    after = cst.parse_module(source).visit(Undecorated()).code
    assert after == "def f(): pass\nf = two(3)(f)\nf = one(f)\n@staticmethod\ndef g(): pass\n"


def test_a_survivor_is_listed_by_both_of_its_lines():
    survivor = Survivor("x", "survived", ("return a + b",), ("return a - b",))
    assert is_listed(survivor, [{"line": "a + b", "mutant": "a - b"}])
    assert not is_listed(survivor, [{"line": "a + b", "mutant": "a * b"}])
    assert not is_listed(survivor, [{"line": "a * b", "mutant": "a - b"}])
    assert not is_listed(survivor, [])
