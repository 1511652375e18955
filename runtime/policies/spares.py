"""Which second choices of the draft a step verifies beside its first ones."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from runtime.policies.policy import LONGEST_SPARED, Drafted


def chosen_spares(choose: Callable[[Drafted], Sequence[int]], drafted: Drafted) -> list[int]:
    """Return the places of drafted tokens where a policy wants spares, as many as fit.

    Args:
        choose: the policy's `spares`.
        drafted: what it is shown.

    Raises:
        ValueError: if they are no places of drafted tokens, or one is named twice.
    """
    count = drafted.count  # before it is shown, for who is asked may change it
    if not count:
        return []
    places = [operator.index(place) for place in choose(drafted)]
    if places and (len(set(places)) < len(places) or min(places) < 0 or max(places) >= count):
        raise ValueError(f"it wants spares at {places} of {count} tokens")
    return places[: max(LONGEST_SPARED - 1 - count, 0)]
