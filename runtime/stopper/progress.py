"""How a step's draft looks so far: the features that change with every drafted token."""

from __future__ import annotations

import math

from runtime.policies.policy import TokenSignals
from runtime.stopper.history import logit

NAMES = (
    "nothing_drafted",
    "log_drafted",
    "logit",
    "logit_change",
    "lowest_logit",
    "log_product",
    "log_lead",
    "top2",
    "entropy",
    "mean_entropy",
    "max_entropy",
)
"""Order of `Progress.features`."""

LEAST_LOG = -6.0
"""Where the log of the running product of top-1 probabilities is cut off."""
MOST_LEAD = 8.0
"""Where ln(top-1 / top-2) is cut off."""


class Progress:
    """The signals of a step's tokens, summed up as they come."""

    def __init__(self) -> None:
        self.count = 0
        self._logit = self._change = self._lowest = self._product = 0.0
        self._sum = self._most = 0.0
        self._token = TokenSignals(0.0, 1.0, 0.0)

    def add(self, token: TokenSignals) -> None:
        """Take the next drafted token."""
        value = logit(token.top1)
        self._change = value - self._logit if self.count else 0.0
        self._lowest = min(self._lowest, value) if self.count else value
        self._logit = value
        self._product = max(self._product + math.log(max(token.top1, 1e-3)), LEAST_LOG)
        self._sum += token.entropy
        self._most = max(self._most, token.entropy)
        self._token = token
        self.count += 1

    def features(self) -> list[float]:
        """Return the values of `NAMES`, in that order; all 0 but the first before anything is drafted."""
        if not self.count:
            return [1.0, *[0.0] * (len(NAMES) - 1)]
        entropy, top1, top2 = self._token
        return [
            0.0,
            math.log1p(self.count),
            self._logit,
            self._change,
            self._lowest,
            self._product,
            min(math.log(max(top1, 1e-4) / max(top2, 1e-4)), MOST_LEAD),
            top2,
            entropy,
            self._sum / self.count,
            self._most,
        ]
