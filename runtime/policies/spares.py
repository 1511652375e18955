"""Which second choices of the draft a step verifies beside its first ones."""

from __future__ import annotations

import operator

from runtime.policies.policy import MOST_ROWS, Drafted, Policy


def chosen_spares(policy: Policy, drafted: Drafted) -> list[int]:
    """Return the places of drafted tokens where a policy wants spares, as many as fit; none if it knows of none.

    Raises:
        ValueError: if they are no places of drafted tokens, or one is named twice.
    """
    choose = getattr(policy, "spares", None)
    if choose is None or not drafted.count:
        return []
    places = [operator.index(place) for place in choose(drafted)]
    if places and (len(set(places)) < len(places) or min(places) < 0 or max(places) >= drafted.count):
        raise ValueError(f"it wants spares at {places} of {drafted.count} tokens")
    return places[: max(MOST_ROWS - 1 - drafted.count, 0)]
