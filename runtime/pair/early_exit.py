"""A draft for any target, without training: the target's own first layers."""

from __future__ import annotations

import copy

from torch import nn
from transformers import PreTrainedModel

from runtime.errors import SpeckvError


def early_exit(target: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Return a model of the target's first `layers` layers, its final norm and its head; every weight is shared.

    Self-speculation by early exit, as in LayerSkip (Elhoushi 2024) without its training.

    Raises:
        SpeckvError: if the target keeps its layers in an unknown place or has fewer.
    """
    body = target.base_model
    if not isinstance(getattr(body, "layers", None), nn.ModuleList):
        raise SpeckvError(f"no early-exit draft for {type(target).__name__}: its layers are not at `model.layers`")
    if not 1 <= layers < len(body.layers):
        raise SpeckvError(f"an early-exit draft of {layers} layers: the target has {len(body.layers)}, choose fewer")
    draft, short_body = _shallow(target), _shallow(body)
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = layers
    draft.config = short_body.config = config
    short_body.layers = body.layers[:layers]
    setattr(draft, target.base_model_prefix, short_body)
    return draft


def _shallow(module: PreTrainedModel) -> PreTrainedModel:
    """Copy a module without its weights: children can be replaced in the copy, and all tensors are shared."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    own = vars(twin)
    # A forward that somebody put into the module, as accelerate does with its hook, would run the module itself.
    hook, *_ = [own.pop(name, None) for name in ("_hf_hook", "_old_forward", "forward")]
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(twin, copy.copy(hook))  # a hook keeps what belongs to its module
    return twin
