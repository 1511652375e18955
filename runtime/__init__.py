"""speckv: chooses the speculation length of speculative decoding.

`GammaSelector` needs numpy and onnxruntime only; the draft/target loop (`runtime.loop`) and the model loading
(`runtime.pair`) need torch and transformers and are imported by name.
"""

from typing import TYPE_CHECKING

from runtime.decision.signals import Signals
from runtime.errors import SpeckvError

__all__ = ["BatchDecision", "Decision", "GammaSelector", "Signals", "SpeckvError"]

if TYPE_CHECKING:
    from runtime.decision.selector import BatchDecision, Decision, GammaSelector
else:

    def __getattr__(name: str) -> object:
        """Import the selector when it is asked for: `python -m runtime` begins here, and cannot catch Ctrl-C before."""
        if name not in __all__:
            raise AttributeError(f"module 'runtime' has no attribute '{name}'")
        from runtime.decision import selector

        return getattr(selector, name)
