"""Which loop a pair runs on: CUDA graphs where they cover it, else the plain one, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from runtime.errors import TargetError
from runtime.loop.generate import Step, check_text, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.notice import warn_once
from runtime.policies.policy import Policy
from runtime.policies.price import LONGEST

if TYPE_CHECKING:
    from runtime.cuda.pair import GraphPair


@dataclass(frozen=True)
class Backend:
    """A pair and the loop that it runs on; the tokens are the target's on either."""

    draft: PreTrainedModel
    target: PreTrainedModel
    graphs: GraphPair | None
    """What the fast loop works on; None for the plain loop."""
    why: str
    """What it is, and for the plain loop why, in one line."""

    @property
    def name(self) -> str:
        """Return "graph" or "eager", as in files of step times."""
        return "graph" if self.graphs else "eager"

    def steps(
        self,
        prompt: Sequence[int],
        policy: Policy,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        eos: Collection[int] = (),
        seed: int = 0,
    ) -> Iterator[Step]:
        """Generate; arguments, steps and errors are those of `speculate`."""
        choice = sampling or Sampling()
        scorers = cached_pair(self.draft, self.target)
        if self.graphs is None or not choice.greedy:
            return speculate(
                *scorers, prompt, policy, max_new_tokens=max_new_tokens, sampling=choice, eos=eos, seed=seed
            )
        check_text(*scorers, prompt, max_new_tokens)
        return self._steps_on(self.graphs, prompt, policy, max_new_tokens, eos)

    def _steps_on(
        self, graphs: GraphPair, prompt: Sequence[int], policy: Policy, new: int, eos: Collection[int]
    ) -> Iterator[Step]:
        """Generate greedily on graphs; where these fail, the plain loop takes the text up."""
        from runtime.cuda.loop import speculate_greedily

        written: list[int] = []
        try:
            for step in speculate_greedily(graphs, prompt, policy, max_new_tokens=new, eos=eos):
                written += step.tokens
                yield step
            return
        except TargetError as error:
            warn_once(f"CUDA graphs: {error}: the text goes on in the plain loop")
        scorers = cached_pair(self.draft, self.target)
        yield from speculate(*scorers, [*prompt, *written], policy, max_new_tokens=new - len(written), eos=eos)


def choose_backend(draft: PreTrainedModel, target: PreTrainedModel, tokens: int, sampling: Sampling) -> Backend:
    """Return the fastest loop that a pair can run on here.

    Preparing the CUDA graphs takes some seconds, the first time on a machine, when the kernels are compiled, about 15.

    Args:
        draft: the loaded draft.
        target: the loaded target.
        tokens: the longest text, prompt and new tokens.
        sampling: how tokens are chosen; only greedy decoding has a fast loop.
    """
    reason = _obstacle(target, sampling)
    if reason is None:
        try:
            return Backend(draft, target, _graph_pair(draft, target, tokens), "CUDA graphs")
        except Exception as error:  # whatever fails in there, the plain loop decodes the same tokens
            reason = " ".join(f"{error or type(error).__name__}".split())[:200]
    return Backend(draft, target, None, f"plain, because {reason}")


def _obstacle(target: PreTrainedModel, sampling: Sampling) -> str | None:
    if target.get_input_embeddings().weight.device.type != "cuda":
        return "CUDA graphs need a GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not sampling.greedy:
        return "CUDA graphs decode greedily"
    if getattr(target, "_tp_size", None):
        return "the target is split over processes"
    return None


def _graph_pair(draft: PreTrainedModel, target: PreTrainedModel, tokens: int) -> GraphPair:
    from runtime.cuda.pair import GraphPair

    with torch.cuda.device(target.get_input_embeddings().weight.device):
        pair = GraphPair(draft, target, texts=1, capacity=tokens, longest=LONGEST)
        pair.warm_up()
    return pair
