"""A draft and its target on static caches: the text, the caches' lengths, draws and acceptance stay on the device, and
each call below is one CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from runtime.cuda.decoder import Decoder
from runtime.cuda.draws import Draws
from runtime.cuda.foresight import Foresight
from runtime.cuda.graphs import Graphs
from runtime.cuda.mailbox import Mailbox
from runtime.cuda.tokens import (
    RESULT,
    SIGNALS,
    TEXTS_OWN,
    TOLD,
    Spares,
    accept,
    chunks,
    depths_with,
    distance,
    read,
    take,
)
from runtime.cuda.weights import NotCoveredError, read_weights
from runtime.errors import SpeckvError
from runtime.loop.sampling import Sampling
from runtime.policies.adaptive import Rule
from runtime.policies.policy import LONGEST_SPARED, TokenSignals
from runtime.stopper.stopper import Stopper

CHUNK = 64
"""Tokens of each prompt that one call takes, where several are read side by side."""
LONG_CHUNK = 256
"""Tokens of a single prompt that one call takes, but for a last one of up to `CHUNK`."""
CATCH_UP = (1, 2, 4, 8, 16, 32, CHUNK)
"""Widths of a step's first draft call: at least as many tokens as the draft has not seen."""


class Drawn(NamedTuple):
    """A token that the draft wrote into one text."""

    signals: TokenSignals
    token: int
    goes_on: float
    """Whether the text's rule wants another one, 1 or 0; NaN where there was none, or not in time."""


class Verified(NamedTuple):
    """What became of one text's step."""

    accepted: int
    tokens: list[int]
    """The target's own tokens after the accepted ones: one, or a spare that stands and one after it."""
    signals: tuple[float, float, float]
    """See `verified_signals`; the distance is NaN where all proposals stand."""

    @property
    def spared(self) -> bool:
        """Whether a spare stands."""
        return len(self.tokens) > 1


NONE: Mapping[int, Sequence[int]] = {}
"""The spares of most verifications."""
RESTS = -1
"""The gamma of a text that takes no part in a step."""


class GraphPair:
    """Texts decoded side by side, each in a row of its own, with its own length, gamma and acceptance.

    Every call works on all rows. What a row did not ask for is harmless: tokens drafted beyond its gamma are not
    verified, and whatever is written after its last committed token is written anew before it is read.

    Args:
        draft: a model that `read_weights` covers, of the target's vocabulary.
        target: likewise, on the same device.
        texts: rows, decoded side by side.
        capacity: tokens of each text at most, prompt and new ones.
        longest: tokens drafted in a step at most.

    Raises:
        NotCoveredError: if the kernels do not cover a model.
    """

    def __init__(
        self, draft: PreTrainedModel, target: PreTrainedModel, texts: int, capacity: int, longest: int
    ) -> None:
        self.texts, self.capacity, self.longest = texts, capacity, longest
        positions = capacity + longest + 1  # a row beside longer drafts goes beyond its capacity
        calls = [(texts, max(CHUNK, longest + 1)), (1, LONG_CHUNK)]
        self.draft_model = Decoder(read_weights(draft), texts, positions, calls)
        self.target_model = Decoder(read_weights(target), texts, positions, calls)
        device = self.target_model.weights.embedding.device
        vocabulary = self.target_model.weights.head.outputs
        if self.draft_model.weights.head.outputs != vocabulary:
            raise NotCoveredError("draft and target have vocabularies of different widths")
        rows = texts * (longest + 1)

        zeros = partial(torch.zeros, device=device)
        pinned = partial(torch.zeros, dtype=torch.int32, pin_memory=device.type == "cuda")
        self.text = zeros(texts, positions, dtype=torch.int32)
        self.starts = zeros(texts, dtype=torch.int32)  # place of each text's last committed token
        self.cursor = zeros(texts, dtype=torch.int32)  # where a call on prompts begins
        self.rows = torch.arange(texts, dtype=torch.int32, device=device)
        self.joining = zeros(texts, dtype=torch.int32)  # rows whose prompts a call reads
        logits = self.target_model.x.dtype
        self.draft_logits = zeros(longest, texts, vocabulary, dtype=logits)
        self.draft_signals = zeros(longest, texts, SIGNALS)
        self.target_logits = zeros(rows, vocabulary, dtype=logits)
        self.target_signals = zeros(rows, SIGNALS)
        self.tokens = zeros(rows, dtype=torch.int32)
        self.results = zeros(texts, RESULT)
        self.parts = zeros(rows * chunks(vocabulary) * 6)
        self.arrived = zeros(rows, dtype=torch.int32)
        self._gammas = pinned(texts)
        self._given_gammas = self._gammas.numpy()
        self._spares = Spares(
            given=pinned(texts),
            depths=zeros(texts, dtype=torch.int32),
            seconds=torch.zeros_like(self.text),
            moves=zeros(texts, 2, dtype=torch.int32),
        )
        self._given_depths = self._spares.given.numpy()
        self._drafted = Mailbox(longest, texts, TOLD, device)
        self._verified = Mailbox(1, texts, RESULT, device)
        self.state = [self.text, self.starts, self.cursor, self._drafted.numbers, self._verified.numbers]
        self.graphs = Graphs(self.state)
        self.sampling = Sampling()
        self.draws: Draws | None = None
        self.foresight = Foresight(longest, texts, device)
        self._foresees = False

    @torch.inference_mode()
    def choose(self, sampling: Sampling) -> None:
        """Choose tokens so from now on; greedily before. The graphs of the last way to draw are kept, and no others."""
        if not sampling.greedy and (self.draws is None or self.draws.sampling != sampling):
            self.draws = None  # makes room for the next
            self.draws = Draws(sampling, self.draft_logits, self.state)
        self.sampling = sampling

    @property
    def _drawing(self) -> Draws | None:
        """What tokens are drawn with; None when greedy."""
        return None if self.sampling.greedy else self.draws

    @torch.inference_mode()
    def foresee(self, stopper: Stopper | None) -> None:
        """Answer by policies' rules on this acceptance model from now on; None: by none."""
        self._foresees = self.foresight.choose(stopper)

    def give_rules(self, rules: Mapping[int, Rule]) -> None:
        """Set what policies, row → rule, answer by in a step: before its first draft call is begun, or soon after."""
        self.foresight.give(rules)

    @torch.inference_mode()
    def begin(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """Start new texts, row → prompt: read all tokens of the prompts but the last into both caches.

        The other rows stay as they are.

        Raises:
            SpeckvError: if a prompt is longer than the capacity.
        """
        longest = max(map(len, prompts.values()))
        if longest > self.capacity:
            raise SpeckvError(f"a prompt of {longest} tokens is longer than the {self.capacity} planned")
        for row, prompt in prompts.items():
            self.text[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int32)
            self.starts[row] = len(prompt) - 1
        rows = list(prompts)
        # A graph for each power of two: it reads the first prompt as often as there are too few.
        calls = min(1 << (len(rows) - 1).bit_length(), self.texts)
        self.joining[:calls] = torch.tensor(rows + rows[:1] * (calls - len(rows)))
        start = 0
        while start < longest - 1:
            width = LONG_CHUNK if calls == 1 and longest - 1 - start > CHUNK else CHUNK
            self.cursor.fill_(start)
            self.graphs.run(("prompts", calls, width), partial(self._read_prompts, calls, width))
            start += width

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile the kernels and capture the graphs of usual steps; any text is lost."""
        for rows in {min(1 << power, self.texts) for power in range(self.texts.bit_length() + 1)}:
            self.begin({row: [0, 0] for row in range(rows)})
        self.begin({0: [0] * min(CHUNK + 2, self.capacity)})
        for foresees in (True, False):
            self._foresees = foresees
            for unseen in (*CATCH_UP, CHUNK + 1):
                self.draft(0, unseen)
            for slot in range(1, self.longest):
                self.draft(slot, 1)
        alone = self.texts == 1 and self.sampling.greedy  # else no spares are asked for
        spared = range(1, min(self.longest, LONGEST_SPARED - 1) if alone else 1)
        steps = [(gamma, NONE) for gamma in range(self.longest + 1)] + [(gamma, {0: [0]}) for gamma in spared]
        for gamma, spares in steps:
            self.starts.fill_(1)
            self.verify([gamma] * self.texts, spares=spares)
            self.verified()

    def _read_prompts(self, texts: int, width: int) -> None:
        for model in (self.draft_model, self.target_model):
            model.forward(self.text, self.joining[:texts], self.cursor[:texts], 0, width)

    def draft(self, slot: int, unseen: int, uniforms: Sequence[float] = (), *, ahead: bool = False) -> None:
        """Begin to draft the token number `slot` ≥ 0 of a step.

        Args:
            slot: see above.
            unseen: tokens that are new to the draft, at most; only the first call of a step looks at it.
            uniforms: in [0, 1), one for each text, when sampling.
            ahead: before the policies know of the last step; their rules are given while the token is drafted.
        """
        if ahead:
            self.foresight.forget()
        width = 1
        if not slot:
            # What lies further back than the widest call is read like a prompt.
            while unseen > CHUNK:
                torch.add(self.starts, 1 - unseen, out=self.cursor).clamp_min_(0)
                self.graphs.run("catch up", self._catch_up)
                unseen -= CHUNK
            width = next(width for width in CATCH_UP if width >= unseen)
        draws, foresees = self._drawing, self._foresees
        self._drafted.begin(slot)
        if draws:
            draws.give_draft(slot, uniforms)
        (draws or self).graphs.run(("draft", slot, width, foresees), lambda: self._draft(slot, width, draws, foresees))

    def _catch_up(self) -> None:
        self.draft_model.forward(self.text, self.rows, self.cursor, 0, CHUNK)

    def _draft(self, slot: int, width: int, draws: Draws | None, foresees: bool) -> None:
        x = self.draft_model.forward(self.text, self.rows, self.starts, slot + 1 - width, width)[:, -1]
        logits, signals = self.draft_logits[slot], self.draft_signals[slot]
        self.draft_model.head(x, logits)
        host = self._drafted.numbers[slot]
        if draws:
            read(logits, self.parts, self.arrived, self.tokens, signals)
            draws.draft(slot, logits, signals, self.text, self.starts)
            if not foresees:
                told = signals.clone()
                told[:, -1] = math.nan
                host.copy_(told, non_blocking=True)
        else:
            write = self.text, self._spares.seconds, self.starts, slot + 1
            read(logits, self.parts, self.arrived, self.tokens, signals, write, None if foresees else host)
        if foresees:
            self.foresight.read(slot, self.draft_signals, host)

    def drafted(self, slot: int) -> list[Drawn]:
        """Wait for token number `slot` of every text, and return them."""
        return [
            Drawn(TokenSignals(entropy, top1, top2), int(token), goes_on)
            for entropy, top1, top2, token, goes_on in self._drafted.read(slot)
        ]

    def verify(
        self,
        gammas: Sequence[int],
        uniforms: Sequence[Sequence[float]] = (),
        spares: Mapping[int, Sequence[int]] = NONE,
    ) -> None:
        """Begin to verify the first `gammas[b]` tokens that were drafted for each text; see `RESTS`.

        Args:
            gammas: see above.
            uniforms: `gammas[b]` + 1 numbers in [0, 1) for each text, when sampling.
            spares: row → places of its drafted tokens, from 0, for which the draft's second choice is verified, too:
                greedily alone, and so that no text has more than `LONGEST_SPARED` tokens to verify.
        """
        width = max(gammas) + 1
        self._verified.begin(0)  # before its gammas are others: the last verification reads them on the host
        self._given_gammas[:] = gammas
        if spares:
            self._given_depths.fill(TEXTS_OWN)
            for row, places in spares.items():
                self._given_depths[row] = depths_with(gammas[row], places)
                width = max(width, gammas[row] + 1 + len(places))
        draws = self._drawing
        if draws:
            draws.give_verification(uniforms)
        spared = self._spares if spares else None
        (draws or self).graphs.run(("verify", width, bool(spares)), lambda: self._verify(width, draws, spared))

    def _verify(self, width: int, draws: Draws | None, spares: Spares | None) -> None:
        if spares:
            take(spares)
        x = self.target_model.forward(self.text, self.rows, self.starts, 0, width, spares).flatten(0, 1)
        logits, signals = self.target_logits[: len(x)], self.target_signals[: len(x)]
        self.target_model.head(x, logits)
        read(logits, self.parts, self.arrived, self.tokens, signals)
        if draws:
            draws.accept(logits, signals, self.text, self.starts, self._gammas, self.results)
        else:
            accept(self.text, self.starts, self._gammas, width, self.tokens, signals, self.results, spares)
        distance(
            logits, signals, width, self.draft_logits, self.draft_signals, self.results,
            self._verified.numbers[0], self.parts, self.arrived,
        )  # fmt: skip
        if spares:
            self.target_model.keep(spares)  # the host need not wait for it

    def verified(self) -> list[Verified]:
        """Wait for the verification of every text, and return what became of it; a text that rests means nothing."""
        return [
            Verified(int(accepted), [int(last)] if spare < 0 else [int(spare), int(last)], (entropy, top1, apart))
            for accepted, last, entropy, top1, apart, spare in self._verified.read(0)
        ]
