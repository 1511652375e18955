"""speckv: chooses the speculation length of speculative decoding.

`GammaSelector` needs numpy and onnxruntime only; the draft/target loop (`runtime.loop`) and the model loading
(`runtime.pair`) need torch and transformers and are imported by name.
"""

from runtime.decision.selector import BatchDecision, Decision, GammaSelector
from runtime.decision.signals import Signals
from runtime.errors import SpeckvError

__all__ = ["BatchDecision", "Decision", "GammaSelector", "Signals", "SpeckvError"]
