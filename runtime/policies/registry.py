"""Policies by the names that the command line takes."""

from __future__ import annotations

from collections.abc import Callable

from runtime.decision.selector import GammaSelector
from runtime.errors import SpeckvError
from runtime.policies.adaedl import AdaEDL
from runtime.policies.adaptive import Adaptive
from runtime.policies.bandit import Bandit
from runtime.policies.confidence import Confidence
from runtime.policies.fixed import Fixed
from runtime.policies.guarded import Guarded
from runtime.policies.heuristic import Heuristic
from runtime.policies.moving_average import MovingAverage
from runtime.policies.policy import Policy
from runtime.policies.specdec import SpecDecPlusPlus
from runtime.policies.speckv import SpecKV
from runtime.policies.speckv_cost import SpecKVCost
from runtime.policies.step_times import StepTimes
from runtime.policies.svip import SVIP
from runtime.policies.throughput import Throughput
from runtime.stopper.stopper import Stopper

PLAIN: dict[str, Callable[[], Policy]] = {
    "none": lambda: Fixed(0),
    "heuristic": Heuristic,
    "moving-average": MovingAverage,
}
THRESHOLD: dict[str, Callable[..., Policy]] = {
    "confidence": Confidence,
    "svip": SVIP,
    "adaedl": AdaEDL,
    "specdec++": SpecDecPlusPlus,
}
TIMED: dict[str, Callable[[str | int, StepTimes], Policy]] = {
    "adaptive": lambda _, times: Adaptive(Stopper(), times),
    "speckv-cost": lambda compression, times: SpecKVCost(GammaSelector(), compression, times),
    "throughput": lambda _, times: Throughput(times),
    "bandit": lambda _, times: Bandit(times),
}
UNTIMED_NAMES = ", ".join(["none", "fixed:N", "speckv", *(f"{name}[:T]" for name in THRESHOLD), *list(PLAIN)[1:]])
"""Policies that need no step times; T is a threshold, the published value by default."""
NAMES = f"{UNTIMED_NAMES}, {', '.join(TIMED)}"


def make_policy(name: str, compression: str | int, times: StepTimes | None = None) -> Policy:
    """Build the policy called `name` for a target of the given compression.

    Args:
        name: one of `NAMES`.
        compression: the target's precision, as `GammaSelector.select` takes it.
        times: measured step times, for the policies that weigh time.

    Raises:
        SpeckvError: if there is no such policy, or it needs step times and has none.
    """
    if name in PLAIN:
        return PLAIN[name]()
    if name == "speckv":
        return SpecKV(GammaSelector(), compression)
    if name in TIMED:
        if times is None:
            raise SpeckvError(f"policy '{name}' needs measured step times: choose from {UNTIMED_NAMES}")
        return TIMED[name](compression, times)
    kind, colon, value = name.partition(":")
    if kind == "fixed" and value.isascii() and value.isdecimal():
        return Fixed(_length(name, value))
    if kind in THRESHOLD:
        return THRESHOLD[kind](_threshold(name, value)) if colon else THRESHOLD[kind]()
    raise SpeckvError(f"no policy is called '{name}': choose from {NAMES}")


def _length(name: str, digits: str) -> int:
    length = int(digits.lstrip("0")[:10] or 0)  # Python reads no number of thousands of digits
    if length > Guarded.LONGEST:
        raise SpeckvError(f"policy '{name:.40}': a step drafts at most {Guarded.LONGEST} tokens, choose fewer")
    return length


def _threshold(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise SpeckvError(f"policy '{name}': '{text}' is no threshold: give a number from 0 to 1")
    return value
