"""Greedy decoding on CUDA graphs, kept with the model between calls: capturing them takes longer than many a text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain

from torch import Tensor
from transformers import EosTokenCriteria, MaxLengthCriteria, PreTrainedModel, StoppingCriteriaList

from integrations.transformers.ending import Ending
from runtime.loop.backend import Backend, choose_backend
from runtime.loop.generate import Step
from runtime.loop.sampling import Sampling
from runtime.policies.policy import Policy

logger = logging.getLogger(__name__)

ATTRIBUTE = "_speckv_kept"
"""Of the model, which the graphs then live as long as."""
LEAST = 512
"""Tokens of a text that the first graphs are for; longer texts double it."""


class Kept:
    """What was chosen for a pair: the loop, for texts of up to `tokens`, while the weights lie where they lay.

    A copy of the model, or one that is pickled, begins with none.
    """

    def __init__(self, backend: Backend, tokens: int, places: list[int]) -> None:
        self.backend, self.tokens, self.places = backend, tokens, places

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def greedy_backend(draft: PreTrainedModel, model: PreTrainedModel, ending: Ending, input_ids: Tensor) -> Backend:
    """Return the fastest greedy loop of a pair for the text that follows `input_ids`; see `choose_backend`."""
    tokens = input_ids.shape[1] + ending.room(input_ids.shape[1])
    places = [parameter.data_ptr() for parameter in chain(draft.parameters(), model.parameters())]
    kept: Kept | None = getattr(model, ATTRIBUTE, None)
    if kept is None or kept.backend.draft is not draft or kept.tokens < tokens or kept.places != places:
        room = max(LEAST, 1 << (tokens - 1).bit_length())
        setattr(model, ATTRIBUTE, None)  # before its successor takes as much memory
        kept = Kept(choose_backend(draft, model, room, Sampling()), room, places)
        setattr(model, ATTRIBUTE, kept)
        logger.info("the loop: %s", kept.backend.why)
    return kept.backend


def greedy_steps(backend: Backend, policy: Policy, input_ids: Tensor, ending: Ending) -> Iterator[Step]:
    """Decode on the graphs; criteria that are not about lengths and end tokens are asked after every token."""
    others = StoppingCriteriaList()
    eos: set[int] = set()
    for criterion in ending.criteria:
        if type(criterion) is EosTokenCriteria:
            eos.update(criterion.eos_token_id.tolist())
        elif type(criterion) is not MaxLengthCriteria:
            others.append(criterion)
    prompt = input_ids[0].tolist()
    stop = ending.of(others) if others else None
    return backend.steps(prompt, policy, max_new_tokens=ending.room(len(prompt)), eos=eos, stop=stop)
