"""flashspec (PyPI, 0.3), where it is installed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from runtime.bench.contender import Generation
from runtime.pair.target import Target


class FlashSpec:
    """Its engine as its own documentation sets it up: prompt lookup of 6 tokens, else 2 drafted; compiled on CUDA.

    Raises:
        ImportError: if flashspec is not installed.
    """

    name = "flashspec"

    def __init__(self, draft: PreTrainedModel, target: Target) -> None:
        from flashspec import FlashSpecConfig, SamplingConfig, SpeculativeEngine
        from flashspec.engine import HuggingFaceDrafter, TargetModel

        self.device = target.model.get_input_embeddings().weight.device
        config = FlashSpecConfig(
            device=str(self.device), sampling=SamplingConfig(temperature=0.0), eos_token_ids=tuple(target.eos)
        )
        drafter = HuggingFaceDrafter("draft", self.device, draft.dtype, model=draft)
        self.engine = SpeculativeEngine(
            config, [drafter], TargetModel(target.name, self.device, target.model.dtype, model=target.model)
        )

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate; see `Contender`."""
        result = self.engine.generate(torch.tensor([list(prompt)], device=self.device), max_new_tokens=new_tokens)
        tokens: list[int] = result.output_ids[0, : result.n_tokens_generated].tolist()
        return Generation(tokens, len(result.arm_steps), sum(step.proposed for step in result.arm_steps))
