"""Places of spares: what a policy may answer, how many fit, and that changing what it is shown changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime.policies.policy import LONGEST_SPARED, Drafted, TokenSignals
from runtime.policies.spares import chosen_spares


def drafted(count: int) -> Drafted:
    return Drafted([TokenSignals(1.0, 0.5, 0.3)] * count)


@pytest.mark.parametrize("count", range(1, 17))
def test_as_many_as_fit_are_taken_the_most_wanted_first(count: int) -> None:
    wanted = list(reversed(range(count)))
    found = chosen_spares(lambda _: wanted, drafted(count))
    assert found == wanted[: max(LONGEST_SPARED - 1 - count, 0)]


def test_where_nothing_is_drafted_nobody_is_asked() -> None:
    assert chosen_spares(lambda _: 1 / 0, drafted(0)) == []  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "answer",
    [[0, 0], [-1], [3], [0, 3], ["1"], [1.5], 3, None],
    ids=["twice", "-1", "3", "0, 3", "text", "1.5", "3", "None"],
)
def test_what_names_no_places_is_refused(answer: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        chosen_spares(lambda _: answer, drafted(3))


@pytest.mark.parametrize("change", [lambda tokens: tokens.clear(), lambda tokens: tokens.extend(tokens * 2)])
def test_who_changes_what_is_shown_gets_no_more_and_no_others(change: Callable[[list[TokenSignals]], None]) -> None:
    def changing(shown: Drafted) -> list[int]:
        change(shown.tokens)
        return [0, 1, 2, 4]

    assert chosen_spares(changing, drafted(5)) == [0, 1]
    with pytest.raises(ValueError, match="of 3 tokens"):
        chosen_spares(changing, drafted(3))
