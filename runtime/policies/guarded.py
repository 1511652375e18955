"""A policy that a loop can rely on, whatever becomes of the one inside."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, TypeVar

from runtime.notice import warn_once
from runtime.policies.adaptive import Rule
from runtime.policies.fallback import Fallback
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome, Policy
from runtime.policies.price import Price
from runtime.policies.spares import chosen_spares
from runtime.stopper.stopper import Stopper

Answer = TypeVar("Answer")


class Guarded:
    """Asks a policy through one text. Where it fails, `Fallback` takes its place; where the draft does, nothing.

    A policy fails if it raises, if it answers with anything but a whole number of at most `LONGEST` tokens, or when a
    call has taken longer than `SLOW_S` for the third time. The user is told, and the text goes on: a policy never had
    a say in its tokens. A call that does not return at all cannot be ended from here, for it has the loop's own thread.
    """

    LONGEST = 2**20
    """Tokens; beyond any context."""
    SLOW_S = 1.0
    """Seconds; a decision takes a ten-thousandth of it."""
    PATIENCE = 3
    """Slow calls in a text; one or two may be the machine's."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.draft_failed = False
        self._slow = 0
        self._shown = Drafted()

    @property
    def weighs_time(self) -> bool:
        """See `Policy`."""
        return bool(getattr(self.policy, "weighs_time", False))

    def device_rule(self) -> Rule | None:
        """Return the rule of a policy that has one, for the step to come."""
        try:
            make = getattr(self.policy, "device_rule", None)
            rule = make() if make else None
            if rule is None:
                return None
            if not (isinstance(rule, Rule) and isinstance(rule.stopper, Stopper) and isinstance(rule.price, Price)):
                raise TypeError(f"its rule is {rule!r:.60}")
        except Exception as error:
            self._replace(error)
            return None
        return rule

    def begin(self) -> None:
        """Start the text."""
        self._tell(self.policy.begin)

    def gamma(self, drafted: Drafted) -> int:
        """Return the length to draft up to, as `Policy.gamma` does; it does not raise."""
        try:
            length = operator.index(self._timed(self.policy.gamma, self._show(drafted)))
            if length > self.LONGEST:
                raise ValueError(f"it answered {length:.3g} tokens")
        except Exception as error:  # it may be anybody's code
            self._replace(error)
            return self.policy.gamma(drafted)
        return length

    def spares(self, drafted: Drafted) -> list[int]:
        """Return the places where the policy wants spares, as `chosen_spares` does; it does not raise."""
        try:
            choose = getattr(self.policy, "spares", None)
            return self._timed(chosen_spares, choose, self._show(drafted)) if choose is not None else []
        except Exception as error:
            self._replace(error)
            return []

    def observe(self, outcome: Outcome) -> None:
        """Tell the policy of a verified step."""
        self._tell(self.policy.observe, outcome)

    def drop_draft(self, error: Exception) -> None:
        """Draft nothing any more in this text, since the draft fails; the user is told."""
        self.policy, self.draft_failed = Fixed(0), True
        warn_once(f"the draft failed ({described(error)}): the text goes on in plain decoding")

    def _show(self, drafted: Drafted) -> Drafted:
        """Return what the policy may see, and change: a copy, for the list is the loop's own record."""
        if not drafted.tokens:
            self._shown = Drafted()
        self._shown.tokens = drafted.tokens[:]
        return self._shown

    def _tell(self, what: Callable[..., None], *given: Any) -> None:
        try:
            self._timed(what, *given)
        except Exception as error:
            self._replace(error)

    def _timed(self, what: Callable[..., Answer], *given: Any) -> Answer:
        """Return what a call answers. Count it if it was slow; raise if too many were."""
        begun = time.perf_counter()
        answer = what(*given)
        if time.perf_counter() - begun > self.SLOW_S:
            self._slow += 1
            if self._slow >= self.PATIENCE:
                raise TimeoutError(f"{self._slow} calls took longer than {self.SLOW_S:g} s")
        return answer

    def _replace(self, error: Exception) -> None:
        name = getattr(self.policy, "name", type(self.policy).__name__)
        self.policy = Fallback()
        warn_once(
            f"policy '{name}' failed ({described(error)}): the text goes on with {Fallback.LENGTH} drafted tokens "
            "a step, or none where they do not stand"
        )


def described(error: Exception) -> str:
    """Return an exception as part of a line: its type, and what it says, cut off after 200 characters."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
