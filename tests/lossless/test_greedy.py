"""Greedy equality over random cases, counted, and the wrong loops that it catches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.counts import write_counts
from tests.lossless.greedy import CASES, DRAFTS, FAMILIES, decoded, new_tokens, own, random_cases, wrong
from tests.lossless.mutants import OF_GREEDY, mutated
from tests.lossless.policies import POLICIES

tried: Counter[str] = Counter()
failed: Counter[str] = Counter()
mutants: Counter[str] = Counter()
missed: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _counted() -> Iterator[None]:
    yield
    if tried:
        write_counts("lossless-greedy", "make test", tried, failed.total(), "cases", failed.total())
    if mutants:
        write_counts("wrong-loops-greedy", "make test", mutants, missed.total(), "wrong loops caught", missed.total())


def test_the_cases_are_many_and_have_everything_in_them() -> None:
    cases = random_cases()
    assert len(set(cases)) == CASES >= 500
    for column, values in enumerate((FAMILIES, None, DRAFTS, None, POLICIES)):
        assert values is None or {case[column] for case in cases} == set(values)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_writes_what_the_target_writes(family: str) -> None:
    cases = [case for case in random_cases() if case.family == family]
    mistakes = [case for case in cases if wrong(case)]
    tried[family] += len(cases)
    failed[family] += len(mistakes)
    assert not mistakes


def test_what_rounding_decides_is_rare() -> None:
    """A case that is equal but for a tie is let pass: that must not hide what these tests are for."""
    cases = random_cases()[::8]
    differ = [c for c in cases if decoded(c, new_tokens(c)) != own(c.family, c.seed, c.prompt)[: new_tokens(c)]]
    assert len(differ) <= 1


@pytest.mark.parametrize("mutant", OF_GREEDY)
def test_a_wrong_loop_is_caught(mutant: str) -> None:
    mutants[mutant] += 1
    missed[mutant] += 1
    with mutated(mutant):
        assert any(wrong(case) for case in random_cases())
    missed[mutant] -= 1
