"""What becomes of an exception of the target's."""

from __future__ import annotations

import torch

from runtime.errors import SpeckvError, TargetError
from runtime.policies.guarded import described

MEMORY_ADVICE = "shorten the prompt, free memory, or load the target in a lower precision"
OTHER_ADVICE = "it fails without speculation, too"


class targets_own:  # noqa: N801  (reads as what stands inside)
    """Turn exceptions of `kind` inside into a `TargetError` that says after how many tokens of text it was.

    Without the target there is no text, so this ends it; what the loop itself says of a model is clear already. A class
    and no generator, since a device waits while the loop enters it.
    """

    def __init__(self, tokens: int, kind: type[Exception] = Exception) -> None:
        self.tokens, self.kind = tokens, kind

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise the `TargetError`."""
        if not isinstance(error, self.kind) or isinstance(error, SpeckvError):
            return
        advice = MEMORY_ADVICE if isinstance(error, torch.OutOfMemoryError) else OTHER_ADVICE
        said = f"the target failed after {self.tokens} tokens of text ({described(error)}): {advice}"
        raise TargetError(said) from error


def no_numbers(tokens: int) -> TargetError:
    """Return the error of logits that no token can be chosen from."""
    return TargetError(
        f"the target's logits are not numbers after {tokens} tokens of text: its weights are damaged, or its precision "
        "overflows; try fp32"
    )
