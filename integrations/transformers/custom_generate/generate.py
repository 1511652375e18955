"""What `model.generate(…, custom_generate="this repository", trust_remote_code=True, draft=draft)` runs."""

from integrations.transformers import generate

__all__ = ["generate"]
