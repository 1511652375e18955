"""Every loop that a draft and a policy meet, called alike; and a pair of CUDA graphs that is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from integrations.transformers import assisted_by, speculative_generate
from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import RESTS, Drawn, GraphPair, Verified
from runtime.loop.accept import accept_greedy, accept_sampled, left_behind
from runtime.loop.generate import Step, speculate
from runtime.loop.propose import token_signals
from runtime.loop.sampling import Sampling, draw
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
from runtime.policies.policy import Policy, TokenSignals

Run = Callable[..., list[int]]


class FakePair:
    """What the loop asks of a `GraphPair`, by forward passes of the whole texts."""

    capacity, longest = 512, 6

    def __init__(self, draft: PreTrainedModel, target: PreTrainedModel, texts: int = 1) -> None:
        self.models, self.texts = (draft, target), texts
        self.written: list[list[int]] = [[0]] * texts
        self.slots: list[list[tuple[TokenSignals, int, torch.Tensor]]] = []

    def choose(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def begin(self, prompts: Mapping[int, Sequence[int]]) -> None:
        self.slots.clear()
        for row, prompt in prompts.items():
            self.written[row] = list(prompt)

    @torch.inference_mode()
    def _logits(self, model: PreTrainedModel, text: list[int]) -> torch.Tensor:
        return cast(torch.Tensor, model(torch.tensor([text])).logits[0]).float()

    def foresee(self, stopper: object) -> None:
        """Nothing is foreseen."""

    def give_rules(self, rules: object) -> None:
        """Likewise."""

    def draft(self, slot: int, unseen: int, uniforms: Sequence[float] = (), *, ahead: bool = False) -> None:  # noqa: ARG002
        del self.slots[slot:]
        drafted = []
        for row in range(self.texts):
            text = self.written[row] + [rows[row][1] for rows in self.slots]
            logits = self._logits(self.models[0], text)[-1:]
            token = logits.argmax() if self.sampling.greedy else self._draw(logits, uniforms[row])
            drafted.append((TokenSignals(*token_signals(logits)[0].tolist()), int(token), logits))
        self.slots.append(drafted)

    def _draw(self, logits: torch.Tensor, uniform: float) -> torch.Tensor:
        return draw(self.sampling.probabilities(logits)[0], torch.tensor(uniform, dtype=torch.float64))

    def drafted(self, slot: int) -> list[Drawn]:
        return [Drawn(signals, token, math.nan) for signals, token, _ in self.slots[slot]]

    def verify(
        self,
        gammas: Sequence[int],
        uniforms: Sequence[Sequence[float]] = (),
        spares: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self.results = [
            self._verify(row, *given, (spares or {}).get(row, ()))
            for row, given in enumerate(zip(gammas, uniforms, strict=True))
        ]
        self.slots.clear()

    def _verify(self, row: int, gamma: int, uniforms: Sequence[float], spares: Sequence[int]) -> Verified:
        if gamma == RESTS:
            return Verified(0, [0], (0.0, 0.0, 0.0))
        text = self.written[row]
        proposed = [slot[row][1] for slot in self.slots[:gamma]]
        logits = self._logits(self.models[1], text + proposed)[len(text) - 1 :]
        accepted, token = self._accept(row, logits, torch.tensor(proposed, dtype=torch.int64), uniforms)
        signals = left_behind(logits, [slot[row][2] for slot in self.slots[:gamma]], accepted)
        own = [int(token)]
        kept = [*text, *proposed[: int(accepted)], *own]
        if int(accepted) in spares and self.slots[int(accepted)][row][2].topk(2).indices[0, 1] == token:
            last = self._logits(self.models[1], kept)[-1:]
            own += [int(last.argmax())]
            signals = torch.cat([token_signals(last)[0, :2], signals[2:]])
        self.written[row] = [*kept, *own[1:]]
        return Verified(int(accepted), own, tuple(signals.tolist()))

    def _accept(
        self, row: int, logits: torch.Tensor, proposed: torch.Tensor, uniforms: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.sampling.greedy:
            return accept_greedy(logits, proposed)
        q = [self.sampling.probabilities(slot[row][2]) for slot in self.slots[: len(proposed)]]
        p = self.sampling.probabilities(logits)
        return accept_sampled(p, torch.cat(q) if q else None, proposed, torch.tensor(uniforms, dtype=torch.float64))

    def verified(self) -> list[Verified]:
        return self.results


def tokens_of(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def plain(
    draft: PreTrainedModel, target: PreTrainedModel, prompt: list[int], policy: Policy, new: int, **more: Any
) -> list[int]:
    return tokens_of(list(speculate(*cached_pair(draft, target), prompt, policy, max_new_tokens=new, **more)))


def graphs(
    draft: PreTrainedModel, target: PreTrainedModel, prompt: list[int], policy: Policy, new: int, **more: Any
) -> list[int]:
    pair = cast(GraphPair, FakePair(draft, target))
    text = Text(prompt, new, more.pop("eos", ()), more.pop("stop", None))
    return tokens_of([done.step for done in speculate_texts(pair, [text], [policy], **more)])


def _generated(target: PreTrainedModel, prompt: list[int], new: int, **more: Any) -> list[int]:
    ids = torch.tensor([prompt])
    output = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **more)
    return cast(list[int], output[0, len(prompt) :].tolist())


def custom(
    draft: PreTrainedModel, target: PreTrainedModel, prompt: list[int], policy: Policy, new: int, **more: Any
) -> list[int]:
    return _generated(target, prompt, new, custom_generate=speculative_generate, draft=draft, policy=policy, **more)


def assisted(
    draft: PreTrainedModel, target: PreTrainedModel, prompt: list[int], policy: Policy, new: int, **more: Any
) -> list[int]:
    with assisted_by(target, policy):
        return _generated(target, prompt, new, assistant_model=draft, **more)


LOOPS: dict[str, Run] = {"plain": plain, "graphs": graphs, "custom generate": custom, "assisted": assisted}
