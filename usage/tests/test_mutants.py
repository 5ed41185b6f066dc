"""Each mutant still changes something, and names tests that are there; `make mutants` runs them."""

from usage.tests.mutants import MUTANTS, ROOT, times_applied


def test_each_mutant_applies_exactly_once() -> None:
    stale = {(mutant.file, mutant.old) for mutant in MUTANTS if times_applied(mutant) != 1}

    assert stale == set()
    assert len(MUTANTS) >= 60


def test_the_tests_of_each_mutant_exist() -> None:
    named = {name for mutant in MUTANTS for name in mutant.tests}

    assert {name for name in named if not (ROOT / name.partition("::")[0]).is_file()} == set()
