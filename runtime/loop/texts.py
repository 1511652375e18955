"""Several texts: what is asked for, and what a step did to one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from runtime.loop.commit import Ends
from runtime.loop.generate import Step


class Text(NamedTuple):
    """A text to generate."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_new_tokens: int
    """Tokens to generate at most."""
    eos: Collection[int] = ()
    """Token ids that end it."""
    stop: Ends | None = None
    """What else ends it."""


class TextStep(NamedTuple):
    """A step of one of several texts."""

    text: int
    """Its place in the order that the texts were given in, from 0."""
    step: Step
    ended: bool
    """Whether it was the text's last."""
