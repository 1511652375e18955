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
"""Order of the features."""

NOTHING = (1.0, *[0.0] * (len(NAMES) - 1))
"""The features before anything is drafted."""

LEAST_LOG, LEAST_FACTOR = -6.0, log(1e-3)
"""Where the log of the running product of top-1 probabilities, and that of each of them, is cut off."""
MOST_LEAD = 8.0
"""Where ln(top-1 / top-2) is cut off."""


class Progress:
    """The signals of a step's tokens, summed up as they come."""

    __slots__ = ("_logit", "_lowest", "_most", "_product", "_sum", "count")

    def __init__(self) -> None:
        self.count = 0
        self._logit = self._product = self._sum = self._most = 0.0
        self._lowest = inf

    def add(self, token: TokenSignals) -> tuple[float, ...]:
        """Take the next drafted token; return the values of `NAMES`, in that order."""
        # Comparisons instead of min and max: a call of either takes as long as a logarithm.
        entropy, top1, top2 = token
        value = logit(top1)
        change = value - self._logit if self.count else 0.0
        product = self._product + (log(top1) if top1 > 1e-3 else LEAST_FACTOR)
        lead = log((top1 if top1 > 1e-4 else 1e-4) / (top2 if top2 > 1e-4 else 1e-4))
        self.count = count = self.count + 1
        self._logit = value
        self._lowest = lowest = value if value < self._lowest else self._lowest
        self._product = product = product if product > LEAST_LOG else LEAST_LOG
        self._sum = total = self._sum + entropy
        self._most = most = entropy if entropy > self._most else self._most
        lead = lead if lead < MOST_LEAD else MOST_LEAD
        return 0.0, log1p(count), value, change, lowest, product, lead, top2, entropy, total / count, most
