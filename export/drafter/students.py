"""The candidates: drafters that start as a few of the target's layers and learn to stand for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from runtime.errors import SpeckvError
from runtime.pair.drafter import build_drafter, own_parts


@dataclass
class Student:
    """One candidate: its model (float32 own weights), the target layers it began as, its optimizer."""

    model: PreTrainedModel
    source_layers: list[int]
    optimizer: torch.optim.AdamW

    @property
    def own(self) -> torch.nn.ModuleDict:
        """The trained parts: layers and final norm."""
        return own_parts(self.model)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters."""
        return list(self.own.parameters())


def source_layers(count: int, total: int) -> list[int]:
    """Return `count` of `total` layer numbers, evenly spread, with the first and the last.

    The first layer reads the embedding and the last one writes for the final norm and the head, all of which the
    drafter shares: taken from anywhere else, the ends would not fit. In between, residual streams of neighbouring
    layers are alike, so an even spread leaves the smallest steps to be learnt.

    Raises:
        SpeckvError: if the target has fewer layers than asked for, or none is.
    """
    if not 1 <= count <= total:
        raise SpeckvError(f"--layers {count}: the target has {total} layers, give 1 to {total}")
    if count == 1:
        return [total - 1]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def make_student(target: PreTrainedModel, layers: int, learning_rate: float) -> Student:
    """Return a drafter of so many layers, holding copies of the target's, ready to train."""
    theirs = own_parts(target)
    chosen = source_layers(layers, target.config.num_hidden_layers)
    model = build_drafter(target, chosen, torch.float32)
    own = own_parts(model)
    # Of the target's weights `layers.NUMBER.…`, those of the chosen layers, numbered anew; and the norm.
    weights = {name: weight for name, weight in theirs.state_dict().items() if name.startswith("norm.")}
    for place, number in enumerate(chosen):
        prefix = f"layers.{number}."
        for name, weight in theirs.state_dict().items():
            if name.startswith(prefix):
                weights[f"layers.{place}.{name.removeprefix(prefix)}"] = weight
    own.load_state_dict(weights)
    own.requires_grad_(True)
    matrices = [weight for weight in own.parameters() if weight.dim() == 2]
    vectors = [weight for weight in own.parameters() if weight.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    fused = target.device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=fused)
    return Student(model, chosen, optimizer)
