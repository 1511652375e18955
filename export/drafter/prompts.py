"""Training prompts, composed from the words and patterns in topics.json: thousands, the same for the same seed.

A name in braces in a pattern is filled from the list of that name, `{n}`, `{m}`, `{k}` from small numbers, `{big}` from
larger ones, `{passage}` from sentences of one of the stories.
"""

from __future__ import annotations

import json
import random
import re
from importlib import resources

from runtime.errors import SpeckvError
from runtime.prompts import TASKS, Prompt

_TOPICS = json.loads(resources.files("export.drafter").joinpath("topics.json").read_text(encoding="utf-8"))
LISTS: dict[str, list[str]] = _TOPICS["lists"]
PATTERNS: dict[str, list[str]] = _TOPICS["patterns"]
STORIES: list[list[str]] = _TOPICS["stories"]

_FIELD = re.compile(r"\{(\w+)\}")
_TRIES = 50
"""Attempts per prompt wanted, before the patterns count as exhausted."""


def compose(count: int, seed: int) -> list[Prompt]:
    """Return `count` distinct prompts, the four tasks in turn.

    Raises:
        SpeckvError: if the patterns do not yield so many.
    """
    source = random.Random(seed)
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for _ in range(_TRIES * count):
        if len(prompts) == count:
            break
        task = TASKS[len(prompts) % len(TASKS)]
        text = _fill(source.choice(PATTERNS[task]), source)
        if text not in seen:
            seen.add(text)
            prompts.append(Prompt(len(prompts), task, text))
    if len(prompts) < count:
        raise SpeckvError(f"{count} prompts asked for, the patterns yield about {len(prompts)}: ask for fewer")
    return prompts


def _fill(pattern: str, source: random.Random) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "passage":
            return _passage(source)
        if name in ("n", "m", "k"):
            return str(source.randint(2, 24))
        if name == "big":
            return str(source.randint(25, 600))
        return source.choice(LISTS[name])

    return _FIELD.sub(value, pattern).strip()


def _passage(source: random.Random) -> str:
    """Return four to eight sentences of one story, in order; sometimes a second story follows."""
    sentences = _sentences(source.choice(STORIES), source)
    if source.random() < 0.2:
        sentences += "\n\n" + _sentences(source.choice(STORIES), source)
    return sentences


def _sentences(story: list[str], source: random.Random) -> str:
    kept = sorted(source.sample(range(1, len(story)), source.randint(3, len(story) - 1)))
    return " ".join(_fill(story[i], source) for i in (0, *kept))
