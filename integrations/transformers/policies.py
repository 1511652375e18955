"""The policy of a call: an object as it is, or a name, for which step times are measured where it weighs them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from runtime.contract import compression_of
from runtime.errors import SpeckvError
from runtime.pair.target import Target, precision_of
from runtime.policies.policy import Policy
from runtime.policies.registry import NAMES, TIMED, UNTIMED_NAMES, make_policy
from runtime.profile.start_up import timed_policies
from runtime.profile.store import digest

if TYPE_CHECKING:
    from runtime.cuda.pair import GraphPair

logger = logging.getLogger(__name__)

DEFAULT_POLICY = "adaptive"
SPLIT_DEFAULT_POLICY = "speckv"
"""Where the target's layers are split over processes: these would measure different times, and draft apart."""


def resolve_policy(policy: str | Policy | None, draft: PreTrainedModel, model: PreTrainedModel) -> Policy:
    """Return the policy that is meant.

    Args:
        policy: a name, an object, or None for the default: `DEFAULT_POLICY`, or `SPLIT_DEFAULT_POLICY`.
        draft: the loaded draft.
        model: the loaded target.

    Raises:
        SpeckvError: if there is none of that name, or it cannot work here, or the object is not a policy.
    """
    return policy_on(None, policy, draft, model)


def policy_on(
    graphs: GraphPair | None, policy: str | Policy | None, draft: PreTrainedModel, model: PreTrainedModel
) -> Policy:
    """Return the policy that is meant, with the times of what the pair runs on; see `resolve_policy`."""
    split = (getattr(model, "_tp_size", None) or 1) > 1
    if policy is None:
        policy = SPLIT_DEFAULT_POLICY if split else DEFAULT_POLICY
    if not isinstance(policy, str):
        if not all(callable(getattr(policy, method, None)) for method in ("begin", "gamma", "observe")):
            raise SpeckvError(f"`policy` is a {type(policy).__name__}: give a policy, or a name among {NAMES}")
        return policy
    if policy not in TIMED:
        return make_policy(policy, compression_of(precision_of(model)))
    if split:
        raise SpeckvError(
            f"policy '{policy}' weighs measured times, and the processes of a tensor parallel model measure different "
            f"ones: choose from {UNTIMED_NAMES}"
        )
    # The times need no tokenizer.
    target = Target(_shape(model), model, tokenizer=None)
    (chosen,) = timed_policies(
        policy, 1, _shape(draft), draft, target, lambda: logger.info("measuring the pair's step times"), graphs
    )
    return chosen


def _shape(model: PreTrainedModel) -> str:
    """Return a name for what a model's step times depend on; a model in memory need not have one of its own."""
    return f"{type(model).__name__} {digest([model.config.to_json_string()])[:16]} {model.dtype}"
