"""Text after text: flat memory, and still the target's tokens at the end."""

from __future__ import annotations

import random

import pytest

from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.policies.registry import make_policy
from tests.counts import write_counts
from tests.integrations.transformers.pairs import noisy
from tests.load.memory import growth
from tests.load.sizes import COMMAND, LONG, SUITE, TOKENS
from tests.loop.fakes import Untimed
from tests.loop.test_greedy import own_tokens
from tests.loop.tiny import VOCABULARY, tiny_model
from tests.replay.tiny import TIMES

MOST_GROWTH = 24_000_000 if LONG else 16_000_000
"""Bytes; torch and glibc keep freed memory in pieces of megabytes."""
MOST_TRACED = 64_000
"""Bytes, over a tenth of the tokens."""
TEXT = 150
"""Tokens."""


def test_memory() -> None:
    target = tiny_model(seed=1, layers=1)
    draft = noisy(target)
    policies = [Untimed(make_policy(name, "fp16", TIMES)) for name in ("adaptive", "speckv", "fixed:3", "adaedl")]
    texts = 0
    wrong: list[int] = []

    def write(count: int) -> None:
        nonlocal texts
        written = 0
        while written < count:
            chooser = random.Random(texts)
            prompt = [chooser.randrange(VOCABULARY) for _ in range(1 + texts % 40)]
            new, sampling = min(TEXT, count - written), Sampling(0.8 * (texts % 2))
            steps = speculate(
                *cached_pair(draft, target),
                prompt,
                policies[texts % 4],
                max_new_tokens=new,
                sampling=sampling,
                seed=texts,
            )
            tokens = [token for step in steps for token in step.tokens]
            assert len(tokens) == new
            if texts % 50 == 0 and tokens != own_tokens(target, prompt, new):
                wrong.append(texts)
            written += new
            texts += 1

    grown = growth(write, TOKENS)
    write_counts(f"{SUITE}-generation", COMMAND, {"texts after each other": TOKENS}, len(wrong), "tokens", len(wrong))
    assert not wrong
    assert grown.resident < MOST_GROWTH
    assert grown.traced < MOST_TRACED


@pytest.mark.skipif(not LONG, reason="part of `make test-long`")
def test_one_long_text() -> None:
    """Its caches grow with it, nothing else does: the last tokens are still the target's."""
    target = tiny_model(seed=1, layers=1)
    draft = noisy(target)
    for model in (target, draft):
        model.config.max_position_embeddings = 8192
    new = 4000
    expected = own_tokens(target, [1, 2, 3], new)
    for name in ("fixed:3", "adaptive"):
        policy = Untimed(make_policy(name, "fp16", TIMES))
        steps = speculate(*cached_pair(draft, target), [1, 2, 3], policy, max_new_tokens=new)
        assert [token for step in steps for token in step.tokens] == expected
