"""The list of mutants does not rot: each applies to the code as it is, and its tests are there."""

import pytest

from scripts.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    spoilt = mutant.spoilt(text)
    assert spoilt != text
    compile(spoilt, mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(), test


def test_a_mutant_that_does_not_apply_is_said() -> None:
    mutant = Mutant("file.py", "old", "new", ())
    with pytest.raises(ValueError, match=r"file\.py: 'old' is there 2 times, not once"):
        mutant.spoilt("old and old")
