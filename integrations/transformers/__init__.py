"""The controller inside transformers: `model.generate(**inputs, custom_generate=speculative_generate, draft=draft)`."""

from integrations.transformers.candidates import PolicyCandidateGenerator, assisted_by
from integrations.transformers.decoding import speculative_generate
from integrations.transformers.policies import resolve_policy
from integrations.transformers.whole import generate

__all__ = ["PolicyCandidateGenerator", "assisted_by", "generate", "resolve_policy", "speculative_generate"]
