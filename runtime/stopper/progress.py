"""How a step's draft looks so far: the features that change with every drafted token."""

from __future__ import annotations

from math import inf, log, log1p

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

LEAST_LOG, LEAST_FACTOR = -6.0, log(1e-3)
"""Where the log of the running product of top-1 probabilities, and that of each of them, is cut off."""
MOST_LEAD = 8.0
"""Where ln(top-1 / top-2) is cut off."""


class Progress:
    """The signals of a step's tokens, summed up as they come."""

    def __init__(self) -> None:
        self.count = 0
        self._logit = self._change = self._product = self._sum = self._most = 0.0
        self._lowest = inf
        self._token = TokenSignals(0.0, 1.0, 0.0)

    def add(self, token: TokenSignals) -> None:
        """Take the next drafted token."""
        # Comparisons instead of min and max: a call of either takes as long as a logarithm.
        entropy, top1, _ = self._token = token
        value, likely = logit(top1), log(top1) if top1 > 1e-3 else LEAST_FACTOR
        self._change = value - self._logit if self.count else 0.0
        if value < self._lowest:
            self._lowest = value
        if entropy > self._most:
            self._most = entropy
        product = self._product + likely
        self._product = product if product > LEAST_LOG else LEAST_LOG
        self._logit = value
        self._sum += entropy
        self.count += 1

    def features(self) -> list[float]:
        """Return the values of `NAMES`, in that order; all 0 but the first before anything is drafted."""
        if not self.count:
            return [1.0, *[0.0] * (len(NAMES) - 1)]
        entropy, top1, top2 = self._token
        lead = log((top1 if top1 > 1e-4 else 1e-4) / (top2 if top2 > 1e-4 else 1e-4))
        return [
            0.0,
            log1p(self.count),
            self._logit,
            self._change,
            self._lowest,
            self._product,
            lead if lead < MOST_LEAD else MOST_LEAD,
            top2,
            entropy,
            self._sum / self.count,
            self._most,
        ]
