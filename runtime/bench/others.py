"""The other systems that can decode with a pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from transformers import PreTrainedModel

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.flashspec import FlashSpec
from runtime.bench.generate import Assisted, Compiled, Plain
from runtime.pair.target import Target

TRIAL = 2
"""Tokens that a system has to generate to take part."""
SYSTEMS: dict[str, Callable[[PreTrainedModel, Target, int], Contender]] = {
    "transformers": lambda _draft, target, _longest: Plain(target),
    "compiled": lambda _draft, target, longest: Compiled(target, longest),
    "assisted": lambda draft, target, _longest: Assisted(draft, target),
    "assisted:4": lambda draft, target, _longest: Assisted(draft, target, constant=4),
    "flashspec": lambda draft, target, _longest: FlashSpec(draft, target),
}
"""Name → how to make it of the draft, the target and the tokens of the longest text."""


def other_systems(
    names: Collection[str],
    draft: PreTrainedModel,
    target: Target,
    prompt: Sequence[int],
    longest: int,
    clock: Clock,
    announce: Callable[[str], None],
) -> tuple[list[Contender], dict[str, str]]:
    """Return the systems that decode the prompt with this pair, and name → why not for the rest."""
    usable: list[Contender] = []
    left_out: dict[str, str] = {}
    for name in [name for name in SYSTEMS if name in names]:
        announce(f"trying {name}")
        try:
            contender = SYSTEMS[name](draft, target, longest)
            clock.time(contender, prompt, TRIAL)
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed"
        except Exception as error:  # whatever another project raises: the bench goes on without it, and says why
            left_out[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        else:
            usable.append(contender)
    return usable, left_out
