"""The other systems that can decode with a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
from runtime.bench.flashspec import FlashSpec
from runtime.bench.generate import Assisted, Compiled
from runtime.pair.target import Target

TRIAL = 2
"""Tokens that a system has to generate to take part."""


def other_systems(
    draft: PreTrainedModel, target: Target, prompt: Sequence[int], clock: Clock
) -> tuple[list[Contender], dict[str, str]]:
    """Return the systems that decode the prompt with this pair, and name → why not for the rest."""
    makers: dict[str, Callable[[], Contender]] = {
        "compiled": lambda: Compiled(target),
        "assisted": lambda: Assisted(draft, target),
        "assisted:4": lambda: Assisted(draft, target, constant=4),
        "flashspec": lambda: FlashSpec(draft, target),
    }
    usable: list[Contender] = []
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        try:
            contender = make()
            clock.time(contender, prompt, TRIAL)
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed"
        except Exception as error:  # whatever another project raises: the bench goes on without it, and says why
            left_out[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        else:
            usable.append(contender)
    return usable, left_out
