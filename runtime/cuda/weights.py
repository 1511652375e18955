"""What the kernels need of a Llama-like transformers model: its own tensors, nothing copied but small ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtime.cuda.matrix import INT8, NF4, NF4_BLOCK, Matrix, float_matrix
from runtime.cuda.nf4 import CODE
from runtime.errors import SpeckvError

MODEL_TYPES = ("llama", "mistral", "qwen2")
"""Kinds of models whose decoder layer is the one of `Decoder`."""
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on the position alone."""


class NotCoveredError(SpeckvError):
    """The fast path does not do this; the message says what."""


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attention_gain: Tensor
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    mlp_gain: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True)
class Weights:
    """A decoder: the tensors of a loaded model, and its shape."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    final_gain: Tensor
    head: Matrix
    rotary: nn.Module
    epsilon: float
    heads: int
    kv_heads: int
    dim: int
    """Of one head."""

    def angles(self, positions: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the first positions, float32 `[positions, dim / 2]` each."""
        # Not by the module's own call: transformers 5.17 has a matrix product there, for which
        # cuBLAS keeps 32 MiB of a Hopper's memory.
        rotary: Any = self.rotary
        frequencies = rotary.inv_freq.float()
        angles = torch.arange(positions, dtype=torch.float32, device=frequencies.device)[:, None] * frequencies
        return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling


def read_weights(model: PreTrainedModel) -> Weights:
    """Return the weights of a loaded model; its tensors are shared.

    Raises:
        NotCoveredError: if the model is not one that the kernels compute.
    """
    config = model.config.get_text_config()
    _check(model, config)
    decoder = model.base_model
    return Weights(
        embedding=model.get_input_embeddings().weight.detach(),
        layers=tuple(_layer(layer) for layer in decoder.layers),
        final_gain=decoder.norm.weight.detach(),
        head=_matrix(model.get_output_embeddings()),
        rotary=decoder.rotary_emb,
        epsilon=config.rms_norm_eps,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )


def _check(model: PreTrainedModel, config: Any) -> None:
    if config.model_type not in MODEL_TYPES:
        raise NotCoveredError(f"{type(model).__name__} is not one of its models ({', '.join(MODEL_TYPES)})")
    if config.hidden_act != "silu":
        raise NotCoveredError(f"the activation is {config.hidden_act}, not silu")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (config.model_type == "mistral" and config.sliding_window):
        raise NotCoveredError("some layers attend to a sliding window")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        raise NotCoveredError(f"the rotary embedding is {rope['rope_type']}, which depends on the text's length")
    for module in model.modules():  # what somebody has put around a layer's own forward pass would be left out
        replaced = "forward" in vars(module) and not hasattr(module, "_hf_hook")
        if replaced or module._forward_hooks or module._forward_pre_hooks:
            raise NotCoveredError(f"a {type(module).__name__} of it has forward hooks")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise NotCoveredError(f"the model lies on {len(devices)} devices")


def _layer(layer: nn.Module) -> Layer:
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    return Layer(
        attention_gain=layer.input_layernorm.weight.detach(),  # type: ignore[union-attr, operator]
        q=_matrix(attention.q_proj),
        k=_matrix(attention.k_proj),
        v=_matrix(attention.v_proj),
        o=_matrix(attention.o_proj),
        mlp_gain=layer.post_attention_layernorm.weight.detach(),  # type: ignore[union-attr, operator]
        gate=_matrix(mlp.gate_proj),
        up=_matrix(mlp.up_proj),
        down=_matrix(mlp.down_proj),
    )


def _matrix(module: Any) -> Matrix:
    """Return a linear layer's weights, of torch or of bitsandbytes."""
    bias = None if module.bias is None else module.bias.detach()
    kind = type(module).__name__
    if kind == "Linear8bitLt":
        weight = module.weight
        scale = weight.SCB if weight.SCB is not None else module.state.SCB
        return Matrix(INT8, weight.data, scale.float(), scale.float()[:1], bias, *weight.shape)
    if kind == "Linear4bit":
        return _nf4(module.weight, bias)
    if type(module) is not nn.Linear:
        raise NotCoveredError(f"a linear layer is a {kind}")
    return float_matrix(module.weight.detach(), bias)


def _nf4(weight: Any, bias: Tensor | None) -> Matrix:
    state = weight.quant_state
    outputs, inputs = state.shape
    if state.quant_type != "nf4" or state.blocksize != NF4_BLOCK or inputs % NF4_BLOCK:
        raise NotCoveredError(
            f"4-bit weights are {state.quant_type} in blocks of {state.blocksize}, not nf4 in {NF4_BLOCK}"
        )
    if state.code.tolist() != torch.tensor(CODE).tolist():
        raise NotCoveredError("the 16 values of its nf4 are not the published ones")
    scale = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scale = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return Matrix(NF4, weight.data, scale.float(), state.code.float(), bias, outputs, inputs)
