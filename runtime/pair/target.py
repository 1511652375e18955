"""Loading the target in the precision that was asked for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed import DistributedConfig

from runtime.contract import PRECISIONS, compression_of
from runtime.errors import SpeckvError
from runtime.pair.embedded import HUB_ID, embedded_target

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLACEMENTS = ("one device", "auto", "tensor parallel")


@dataclass(frozen=True)
class Target:
    """A loaded target."""

    name: str
    """Hub id or folder; the Hub id for the embedded target."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`, read off the loaded weights."""
        return precision_of(self.model)

    @property
    def compression(self) -> str:
        """What the selector is told: "int8" or "nf4" as loaded; every uncompressed precision counts as "fp16"."""
        return compression_of(self.precision)

    @property
    def eos(self) -> frozenset[int]:
        """The token ids that end a text."""
        ids = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt; see `encode_prompt`."""
        return encode_prompt(self.tokenizer, prompt)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a user's message as the chat template writes it, up to the answer's start.

    A tokenizer without a template gets the plain text.
    """
    if tokenizer.chat_template is None:
        return list(tokenizer(text).input_ids)
    turn = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)


def load_target(
    name: str | None = None, precision: str | None = None, device: str | None = None, placement: str = "one device"
) -> Target:
    """Load a target for inference.

    Args:
        name: Hub id or folder; the embedded SmolLM2-135M-Instruct by default.
        precision: one of `PRECISIONS`; fp16 on CUDA and fp32 on the CPU by default. int8 and nf4 are bitsandbytes'
            LLM.int8 and NF4, as in the published system.
        device: "cpu", "cuda" or "cuda:N"; CUDA where there is one by default.
        placement: one of `PLACEMENTS`: on one device; "auto", layer by layer over all GPUs (accelerate); or
            "tensor parallel", every layer split over the processes of `torchrun` (transformers' tp_plan="auto").

    Raises:
        SpeckvError: if the combination cannot work here (checked before anything is downloaded, a target's heads before
            its weights are), or there is no such model.
    """
    device = resolve_device(device)
    precision = precision or ("fp16" if device.startswith("cuda") else "fp32")
    check_precision(precision)
    check_placement(placement, precision)
    if name is not None and not name.strip():
        raise SpeckvError("the target's name is empty: give a Hub id or a folder")
    source = embedded_target() if name is None else name
    tokenizer = load_tokenizer(source)
    if placement == "tensor parallel":
        check_heads(source)
    model = load_model(source, precision, device, placement)
    return Target(name or HUB_ID, model, tokenizer)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Hub id or folder.

    Raises:
        SpeckvError: if there is none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # what a folder holds can make the libraries raise anything
        raise _not_loadable("tokenizer", name, error) from error
    return tokenizer


def load_model(name: str, precision: str, device: str, placement: str = "one device") -> PreTrainedModel:
    """Load a causal language model of a Hub id or folder, in evaluation mode.

    Raises:
        SpeckvError: if there is none, or it does not fit into the device's memory.
    """
    if precision in ("int8", "nf4"):
        _import_bitsandbytes()
    quantization = _quantization(precision)
    dtype = DTYPES.get(precision, torch.float16)  # what a quantised target keeps in floating point
    try:
        model: PreTrainedModel
        model, loading = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, quantization_config=quantization, output_loading_info=True, trust_remote_code=False,
            **_where(placement, device),
        )  # fmt: skip
    except torch.cuda.OutOfMemoryError as error:
        raise SpeckvError(f"model '{name}' does not fit into the memory of {device}: try a lower precision") from error
    except Exception as error:  # as above
        raise _not_loadable("model", name, error) from error
    if missing := sorted(loading["missing_keys"]):
        raise SpeckvError(f"model '{name}' lacks {len(missing)} weights, first {missing[0]}: its files are incomplete")
    return model.eval()


def _import_bitsandbytes() -> None:
    """Import it without `kernels`, by which it fetches code from a Hub repository that nobody named.

    Its advice to install that package is left out with it.
    """
    if "bitsandbytes" in sys.modules:
        return
    logger = logging.getLogger("bitsandbytes")
    level, kernels = logger.level, sys.modules.get("kernels", sys)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.setLevel(logging.ERROR)
    try:
        importlib.import_module("bitsandbytes")
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not sys:  # which stands for none
            sys.modules["kernels"] = kernels


def resolve_device(device: str | None) -> str:
    """Return the device to use, "cpu", "cuda" or "cuda:N"; CUDA where there is one by default.

    Raises:
        SpeckvError: if CUDA was asked for and there is none.
    """
    if device and device.startswith("cuda") and not torch.cuda.is_available():
        raise SpeckvError(
            f"device '{device}' was asked for, but torch {torch.__version__} finds no CUDA device: use cpu"
        )
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(model: PreTrainedModel) -> str:
    """Return the precision that a model was really loaded in, one of `PRECISIONS`.

    Raises:
        SpeckvError: if it is another.
    """
    if getattr(model, "is_loaded_in_8bit", False):
        return "int8"
    if getattr(model, "is_loaded_in_4bit", False) and model.config.quantization_config.bnb_4bit_quant_type == "nf4":
        return "nf4"
    for precision, dtype in DTYPES.items():
        if model.dtype == dtype and getattr(model, "hf_quantizer", None) is None:
            return precision
    raise SpeckvError(f"the model is loaded in none of {', '.join(PRECISIONS)}: load it in one of these")


def _where(placement: str, device: str) -> dict[str, object]:
    if placement == "tensor parallel":
        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {"device_map": "auto" if placement == "auto" else device}


def _quantization(precision: str) -> BitsAndBytesConfig | None:
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if precision == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
    return None


def check_precision(precision: str) -> None:
    """Refuse a precision that is unknown or cannot be loaded here, before anything is downloaded.

    Raises:
        SpeckvError: saying which.
    """
    if precision not in PRECISIONS:
        raise SpeckvError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
    if precision in ("int8", "nf4") and importlib.util.find_spec("bitsandbytes") is None:
        raise SpeckvError(f"precision {precision} needs bitsandbytes: `pip install speckv[loop]`, or use fp16 or fp32")


def check_placement(placement: str, precision: str) -> None:
    """Refuse a placement that is unknown or cannot work here, before anything is downloaded.

    Raises:
        SpeckvError: saying why.
    """
    if placement not in PLACEMENTS:
        raise SpeckvError(f"placement '{placement}' is none of {', '.join(PLACEMENTS)}")
    if placement == "tensor parallel" and "WORLD_SIZE" not in os.environ:
        raise SpeckvError("tensor parallelism runs one process a GPU: start it with `torchrun --nproc-per-node N -m …`")
    if placement == "tensor parallel" and precision in ("int8", "nf4"):
        raise SpeckvError(f"bitsandbytes cannot split {precision} over processes: use fp16, bf16 or --device-map auto")


def check_heads(name: str) -> None:
    """Refuse a target whose attention heads the processes of `torchrun` cannot share evenly, before it is loaded.

    Raises:
        SpeckvError: naming the heads and what would do; or if there is no such model.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config()
    except Exception as error:  # as above
        raise _not_loadable("model", name, error) from error
    plan = config.base_model_tp_plan or {}
    if not any(("attn" in part or "attention" in part) and style == "colwise" for part, style in plan.items()):
        return  # its heads are not split
    processes, heads = int(os.environ["WORLD_SIZE"]), config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    most = math.gcd(heads, kv_heads)
    if most % processes:
        fitting = " or ".join(str(n) for n in range(2, most + 1) if most % n == 0)
        raise SpeckvError(
            f"target '{name}' has {heads} attention heads and {kv_heads} key-value heads, which {processes} processes "
            f"cannot share evenly: {f'start {fitting} processes' if fitting else 'start one process'}, or use "
            "--device-map auto"
        )


def _not_loadable(what: str, name: str, error: Exception) -> SpeckvError:
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        return SpeckvError(f"no {what} can be loaded from '{name}': it is not a model folder (no config.json)")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return SpeckvError(f"no {what} can be loaded from '{name}': {reason}")
