"""The table of mutations fits the sources as they are; running it takes minutes and is not done here."""

import ast
import re

import pytest

from tests.rules.mutation_table import MUTATIONS, Mutation
from tests.rules.mutations import ROOT, complaint, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}-{mutation.rule}")
def test_mutation_occurs_once_and_its_rule_is_the_name_of_a_test(mutation: Mutation) -> None:
    assert mutation.old != mutation.new
    ast.parse(mutated(mutation, ROOT))
    tests = "".join(
        (ROOT / "tests" / "rules" / f"{name}.py").read_text(encoding="utf-8") for name in mutation.test_files
    )
    assert re.search(rf"def test_\w*{mutation.rule}", tests)


def test_mutation_that_is_caught_by_other_tests_is_not_caught() -> None:
    mutation = Mutation("model/rotary.py", "old", "new", "rotary_sign", ("test_rotary",))
    assert complaint(mutation, []) == "NOT CAUGHT"
    assert "bears the name" in str(complaint(mutation, ["test_rotary.py::test_rotary_angle"]))
    assert "other tests" in str(complaint(mutation, ["test_rotary.py::test_rotary_sign", "test_mlp.py::test_gelu"]))
    assert complaint(mutation, ["test_rotary.py::test_rotary_sign"]) is None


def test_mutation_whose_text_has_gone_is_reported_with_its_file() -> None:
    with pytest.raises(ValueError, match=r"model/rotary\.py holds 'no such text' 0 times"):
        mutated(Mutation("model/rotary.py", "no such text", "", "rotary", ("test_rotary",)), ROOT)
