"""Which loop a pair runs on: CUDA graphs where they cover it, else the plain one, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from runtime.errors import TargetError
from runtime.loop.commit import Ends
from runtime.loop.generate import Step, check_text, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
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

    @property
    def rows(self) -> int:
        """Return how many texts are decoded side by side: one on the plain loop."""
        return self.graphs.texts if self.graphs else 1

    def steps(
        self,
        prompt: Sequence[int],
        policy: Policy,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        eos: Collection[int] = (),
        stop: Ends | None = None,
        seed: int = 0,
    ) -> Iterator[Step]:
        """Generate; arguments, steps and errors are those of `speculate`."""
        choice = sampling or Sampling()
        scorers = cached_pair(self.draft, self.target)
        if self.graphs is None:
            return speculate(
                *scorers, prompt, policy, max_new_tokens=max_new_tokens, sampling=choice, eos=eos, stop=stop, seed=seed
            )
        check_text(*scorers, prompt, max_new_tokens)
        return self._steps_on(self.graphs, Text(prompt, max_new_tokens, eos, stop), policy, choice, seed)

    def _steps_on(self, graphs: GraphPair, text: Text, policy: Policy, choice: Sampling, seed: int) -> Iterator[Step]:
        """Generate a text on graphs; where these fail, the plain loop takes it up."""
        from runtime.cuda.loop import speculate_texts

        steps: list[Step] = []
        try:
            for _, step, _ in speculate_texts(graphs, [text], [policy], sampling=choice, seed=seed):
                steps.append(step)
                yield step
        except TargetError as error:
            _tell(error)
            yield from self._rest(text, steps, policy, choice, seed)

    def _rest(self, text: Text, steps: Sequence[Step], policy: Policy, choice: Sampling, seed: int) -> Iterator[Step]:
        """Generate on the plain loop what follows after some steps, with the random numbers that these have left."""
        written = [token for step in steps for token in step.tokens]
        generator = torch.Generator().manual_seed(seed)
        torch.rand(sum(2 * step.gamma + 1 for step in steps), generator=generator, dtype=torch.float64)
        return speculate(
            *cached_pair(self.draft, self.target),
            [*text.prompt, *written],
            policy,
            max_new_tokens=text.max_new_tokens - len(written),
            sampling=choice,
            eos=text.eos,
            stop=text.stop,
            seed=generator,
        )

    def texts(
        self, texts: Sequence[Text], policies: Sequence[Policy], *, sampling: Sampling | None = None, seed: int = 0
    ) -> Iterator[tuple[int, list[Step]]]:
        """Generate several texts: on the fast loop side by side, on the plain one in turn, with the same tokens.

        Args:
            texts: what to generate.
            policies: one for each of `rows`.
            sampling: greedy by default.
            seed: of each text's draws when sampling.

        Yields:
            Each text when it has ended: its place in `texts`, and its steps.

        Raises:
            SpeckvError: before anything is generated, if a prompt is empty or does not fit into a context.
        """
        choice = sampling or Sampling()
        for text in texts:
            check_text(*cached_pair(self.draft, self.target), text.prompt, text.max_new_tokens)
        if self.graphs is None:
            for number, (prompt, new, eos, stop) in enumerate(texts):
                scorers = cached_pair(self.draft, self.target)
                steps = speculate(
                    *scorers, prompt, policies[0], max_new_tokens=new, sampling=choice, eos=eos, stop=stop, seed=seed
                )
                yield number, list(steps)
            return
        from runtime.cuda.loop import speculate_texts

        unfinished: dict[int, list[Step]] = {number: [] for number in range(len(texts))}
        try:
            for number, step, ended in speculate_texts(self.graphs, texts, policies, sampling=choice, seed=seed):
                unfinished[number].append(step)
                if ended:
                    yield number, unfinished.pop(number)
        except TargetError as error:
            _tell(error)
            for number, begun in unfinished.items():
                yield number, [*begun, *self._rest(texts[number], begun, policies[0], choice, seed)]


def _tell(error: TargetError) -> None:
    warn_once(f"CUDA graphs: {error}: the plain loop goes on")


def choose_backend(
    draft: PreTrainedModel, target: PreTrainedModel, tokens: int, sampling: Sampling, rows: int = 1
) -> Backend:
    """Return the fastest loop that a pair can run on here.

    Preparing the CUDA graphs takes some seconds, the first time on a machine, when the kernels are compiled, about 15.

    Args:
        draft: the loaded draft.
        target: the loaded target.
        tokens: the longest text, prompt and new tokens.
        sampling: how tokens are chosen, as far as known; another way costs its graphs when it is first asked for.
        rows: texts that are decoded side by side at most.
    """
    reason = _obstacle(target)
    if reason is None:
        try:
            return Backend(draft, target, _graph_pair(draft, target, tokens, sampling, rows), "CUDA graphs")
        except Exception as error:  # whatever fails in there, the plain loop decodes the same tokens
            reason = " ".join(f"{error or type(error).__name__}".split())[:200]
    return Backend(draft, target, None, f"plain, because {reason}")


def _obstacle(target: PreTrainedModel) -> str | None:
    if target.get_input_embeddings().weight.device.type != "cuda":
        return "CUDA graphs need a GPU"
    if torch.version.hip:
        return "the kernels are written for NVIDIA's GPUs"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if getattr(target, "_tp_size", None):
        return "the target is split over processes"
    return None


def _graph_pair(
    draft: PreTrainedModel, target: PreTrainedModel, tokens: int, sampling: Sampling, rows: int
) -> GraphPair:
    from runtime.cuda.pair import GraphPair

    with torch.cuda.device(target.get_input_embeddings().weight.device):
        pair = GraphPair(draft, target, texts=rows, capacity=tokens, longest=LONGEST)
        pair.choose(sampling)
        pair.warm_up()
    return pair
