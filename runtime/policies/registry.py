"""Policies by the names that the command line takes."""

from __future__ import annotations

from runtime.decision.selector import GammaSelector
from runtime.errors import SpeckvError
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.speckv import SpecKV

NAMES = "none, fixed:N, speckv"


def make_policy(name: str, compression: str | int) -> Policy:
    """Build the policy called `name` for a target of the given compression.

    Raises:
        SpeckvError: if there is no such policy.
    """
    if name == "none":
        return Fixed(0)
    if name == "speckv":
        return SpecKV(GammaSelector(), compression)
    kind, _, length = name.partition(":")
    if kind == "fixed" and length.isdecimal():
        return Fixed(int(length))
    raise SpeckvError(f"no policy is called '{name}': choose from {NAMES}")
