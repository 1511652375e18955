"""What becomes of an exception of the target's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime.errors import SpeckvError, TargetError
from runtime.policies.guarded import described

MEMORY_ADVICE = "shorten the prompt, free memory, or load the target in a lower precision"
OTHER_ADVICE = "it fails without speculation, too"


@contextmanager
def targets_own(tokens: int, kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn exceptions of `kind` inside into a `TargetError` that says after how many tokens of text it was.

    Without the target there is no text, so this ends it; what the loop itself says of a model is clear already.
    """
    try:
        yield
    except SpeckvError:
        raise
    except kind as error:
        advice = MEMORY_ADVICE if isinstance(error, torch.OutOfMemoryError) else OTHER_ADVICE
        raise TargetError(f"the target failed after {tokens} tokens of text ({described(error)}): {advice}") from error


def no_numbers(tokens: int) -> TargetError:
    """Return the error of logits that no token can be chosen from."""
    return TargetError(
        f"the target's logits are not numbers after {tokens} tokens of text: its weights are damaged, or its precision "
        "overflows; try fp32"
    )
