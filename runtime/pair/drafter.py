"""A drafter package put onto a loaded target: read, checked, dequantised, with the target's own embedding and head.

A drafter is a few decoder layers and a final norm. Embedding and head are the target's own modules, so that the package
stays small and both models always speak of the same tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtime.contract import CONFIG_FILE
from runtime.errors import SpeckvError
from runtime.files import check_format, parse_object
from runtime.hub import package_from
from runtime.manifest import AGAIN, read_files

FORMAT_VERSION = 1
WEIGHTS_FILE = "drafter.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""What is read of a package."""
SCALE_SUFFIX = ".scale"
SAMPLE_KEY = "target.embedding_sample"
SAMPLE_SIDE = 16
"""Rows and columns of the embedding kept as part of the fingerprint."""
SAMPLE_TOLERANCE = 0.05
"""Relative L2 distance allowed between the stored sample and the target's. Half precision moves it by less than 0.004
and an 8-bit file of the same weights by about 0.01; unrelated weights differ by more than 1."""

ARCHITECTURE_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
)


def load_drafter(
    path_or_repo_id: Path | str,
    target: PreTrainedModel,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> PreTrainedModel:
    """Return a drafter as a model of the target's class, sharing the target's embedding and head.

    Args:
        path_or_repo_id: folder of a drafter package, or OWNER/NAME of a Hub repository with the same files.
        target: the loaded target, in any precision.
        dtype: what the drafter's own weights are dequantised to, on the embedding's device; by default that of the
            target's embedding.
        revision: branch, tag or commit of the repository.

    Raises:
        SpeckvError: if the package cannot be had, a file is missing or damaged, or the drafter was made for another
            target.
    """
    folder = package_from(path_or_repo_id, revision, FILES)
    described, weights = read_files(folder, *FILES)
    config = _read_config(folder / CONFIG_FILE, described)
    stored, sample = _read_weights(folder / WEIGHTS_FILE, weights)
    check_target(config["target"]["architecture"], sample, target, folder)
    embedding = _embedding_weight(target)
    _check_layers(config["source_layers"], target, folder)
    drafter = build_drafter(target, config["source_layers"], dtype or embedding.dtype)
    _load_weights(drafter, _dequantised(stored, folder), folder)
    return drafter.eval()


def build_drafter(target: PreTrainedModel, source_layers: list[int], dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of the target's class with one fresh decoder layer per source layer and the target's ends.

    The layers' weights are uninitialised in meaning; the caller copies or loads them.

    Raises:
        SpeckvError: if the target is not a plain decoder (`model.layers`, `model.norm`).
    """
    own_parts(target)
    config = copy.deepcopy(target.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in source_layers]
    config.num_hidden_layers = len(source_layers)
    drafter = type(target)._from_config(config, dtype=dtype, attn_implementation=target.config._attn_implementation)
    drafter = drafter.to(_embedding_weight(target).device)
    drafter.set_input_embeddings(target.get_input_embeddings())
    drafter.set_output_embeddings(target.get_output_embeddings())
    return drafter


def own_parts(model: PreTrainedModel) -> nn.ModuleDict:
    """Return what a drafter owns, as a module: `layers` and the final `norm`.

    Raises:
        SpeckvError: if the model has no such parts.
    """
    decoder = model.base_model
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or not hasattr(decoder, "norm"):
        raise SpeckvError(
            f"{type(model).__name__} has no `layers` and `norm` in its decoder: a drafter needs a Llama-like target"
        )
    return nn.ModuleDict({"layers": decoder.layers, "norm": decoder.norm})


def architecture(target: PreTrainedModel) -> dict[str, Any]:
    """Return the configuration values that a drafter's weights depend on; the same for every precision of a target."""
    return {field: getattr(target.config, field, None) for field in ARCHITECTURE_FIELDS}


def embedding_sample(target: PreTrainedModel) -> Tensor:
    """Return float16 `[16, 16]`: embedding values at evenly spread rows (tokens) and columns.

    With `architecture` it is the target's fingerprint. A hash of the weights would differ between float32, float16 and
    bfloat16 copies of one target; these few values, compared with a tolerance, do not.
    """
    weight = _embedding_weight(target).detach()
    if hasattr(weight, "full_tensor"):  # split over processes, all of which come here
        weight = weight.full_tensor()
    rows, columns = (torch.linspace(0, size - 1, SAMPLE_SIDE).long().to(weight.device) for size in weight.shape)
    return weight[rows][:, columns].to("cpu", torch.float16)


def check_target(expected: dict[str, Any], sample: Tensor, target: PreTrainedModel, folder: Path) -> None:
    """Refuse a target that is not the one the drafter was distilled from.

    Raises:
        SpeckvError: naming the first field that differs.
    """
    actual = architecture(target)
    for field in ARCHITECTURE_FIELDS:
        if actual[field] != expected.get(field):
            raise SpeckvError(
                f"drafter {folder} was made for a target with {field} {expected.get(field)}, this one has "
                f"{actual[field]}: distil one with `python -m export drafter --target ...`"
            )
    wanted = sample.float()
    distance = float((embedding_sample(target).float() - wanted).norm() / wanted.norm().clamp_min(1e-12))
    if not distance <= SAMPLE_TOLERANCE:
        raise SpeckvError(
            f"drafter {folder} was made for other weights of this architecture (embedding differs by {distance:.2f}): "
            "distil one with `python -m export drafter --target ...`"
        )


def quantise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the stored form: matrices as int8 with a float16 scale per output row, vectors as float16.

    Symmetric absmax rounding: scale = max|row| / 127, stored value = round(row / scale).
    """
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        value = weight.detach().to("cpu", torch.float32)
        if value.dim() != 2:
            stored[name] = value.half()
            continue
        # The smallest float16 keeps an all-zero row finite.
        scale = (value.abs().amax(1, keepdim=True) / 127).half().clamp_min(2**-24)
        stored[name] = (value / scale.float()).round().clamp(-127, 127).to(torch.int8).contiguous()
        stored[name + SCALE_SUFFIX] = scale.squeeze(1)
    return stored


def dequantise(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 weights from the stored form of `quantise`."""
    weights: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        weights[name] = value.float()
        if name + SCALE_SUFFIX in stored:
            weights[name] *= stored[name + SCALE_SUFFIX].float().unsqueeze(1)
    return weights


def _check_layers(layers: list[int], target: PreTrainedModel, folder: Path) -> None:
    depth = target.config.num_hidden_layers
    if len(layers) > depth or not all(0 <= layer < depth for layer in layers):
        raise SpeckvError(f"{folder / CONFIG_FILE}: source_layers are not layers of a target of {depth}: {AGAIN}")


def _dequantised(stored: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    try:
        weights = dequantise(stored)
    except RuntimeError:  # a scale of another shape
        weights = {}
    if not weights or not all(weight.isfinite().all() for weight in weights.values()):
        raise SpeckvError(f"{folder / WEIGHTS_FILE} holds weights that are not finite, or none: {AGAIN}")
    return weights


def _load_weights(drafter: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    own = own_parts(drafter)
    wanted = own.state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights or name not in wanted:
            fault = "lacks" if name in wanted else "has an unknown"
            raise SpeckvError(f"{folder / WEIGHTS_FILE} {fault} tensor {name}: {AGAIN}")
        if weights[name].shape != wanted[name].shape:
            raise SpeckvError(
                f"{folder / WEIGHTS_FILE}: {name} has shape {list(weights[name].shape)}, the target asks for "
                f"{list(wanted[name].shape)}: {AGAIN}"
            )
    own.load_state_dict(weights)


def _read_config(path: Path, content: bytes) -> dict[str, Any]:
    config = parse_object(path, content, AGAIN)
    check_format(path, config.get("format_version"), FORMAT_VERSION)
    layers, target = config.get("source_layers"), config.get("target")
    if not isinstance(layers, list) or not layers or not all(type(layer) is int for layer in layers):
        raise SpeckvError(f"{path}: source_layers is not a list of layer numbers: {AGAIN}")
    if not isinstance(target, dict) or not isinstance(target.get("architecture"), dict):
        raise SpeckvError(f"{path}: target.architecture is missing: {AGAIN}")
    return config


def _read_weights(path: Path, content: bytes) -> tuple[dict[str, Tensor], Tensor]:
    """Return the stored weights and the sample of the embedding that belongs to them."""
    try:
        stored = load(content)
        return stored, stored.pop(SAMPLE_KEY).reshape(SAMPLE_SIDE, SAMPLE_SIDE)
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        raise SpeckvError(f"{path} holds no weights of a drafter: {AGAIN}") from None


def _embedding_weight(model: PreTrainedModel) -> Tensor:
    return model.get_input_embeddings().weight  # type: ignore[no-any-return]
