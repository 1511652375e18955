"""Targets in every precision, on the CPU, for real; and what is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Phi3Config

from runtime import GammaSelector, SpeckvError
from runtime.__main__ import main
from runtime.contract import PRECISIONS
from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel
from runtime.pair import target as target_module
from runtime.pair.early_exit import early_exit
from runtime.pair.target import Target, check_heads, encode_prompt, load_target, precision_of
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.speckv import SpecKV
from tests.loop.watched import Watched


@pytest.fixture(scope="module", params=PRECISIONS)
def target(request: pytest.FixtureRequest, target_folder: Path) -> Target:
    return load_target(str(target_folder), request.param, "cpu")


def test_the_compression_follows_from_the_loaded_weights(target: Target, request: pytest.FixtureRequest) -> None:
    asked = request.node.callspec.params["target"]
    assert target.precision == precision_of(target.model) == asked
    assert target.compression == (asked if asked in ("int8", "nf4") else "fp16")
    with pytest.raises(AttributeError):
        target.precision = "nf4"  # type: ignore[misc]


def test_a_quantised_target_is_smaller(target_folder: Path) -> None:
    sizes = {p: load_target(str(target_folder), p, "cpu").model.get_memory_footprint() for p in PRECISIONS}
    assert sizes["nf4"] < sizes["int8"] < sizes["fp16"] == sizes["bf16"] < sizes["fp32"]


def test_every_committed_token_is_the_argmax_of_its_verifying_call(target: Target) -> None:
    policies: list[Policy] = [Fixed(0), Fixed(3), SpecKV(GammaSelector(), target.compression)]
    for policy in policies:
        scorer = Watched(target.model)
        draft = CachedModel(early_exit(target.model, 2))
        for step in speculate(draft, scorer, target.encode("w5 w9 w33"), policy, max_new_tokens=24):
            assert step.tokens == scorer.last.argmax(-1)[: len(step.tokens)].tolist()


@pytest.mark.skipif(Version(version("bitsandbytes")) < Version("0.47"), reason="no fp4 on the CPU")
def test_a_quantisation_that_is_none_of_ours_is_refused(target_folder: Path) -> None:
    fp4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
    model = AutoModelForCausalLM.from_pretrained(target_folder, quantization_config=fp4, device_map="cpu")
    with pytest.raises(SpeckvError, match="none of"):
        precision_of(model)


def test_a_precision_that_is_none_of_ours_is_refused(target_folder: Path) -> None:
    double = AutoModelForCausalLM.from_pretrained(target_folder, dtype=torch.float64)
    with pytest.raises(SpeckvError, match="none of"):
        precision_of(double)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int3"}, "none of"),
        ({"device": "cuda"}, "no CUDA device"),
        ({"placement": "somewhere"}, "none of"),
        ({"placement": "tensor parallel"}, "torchrun"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], message: str
) -> None:
    if "device" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(target_module, "load_tokenizer", None)
    monkeypatch.setattr(target_module, "load_model", None)
    with pytest.raises(SpeckvError, match=message):
        load_target("a/model", **arguments)  # type: ignore[arg-type]


def test_quantised_without_bitsandbytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SpeckvError, match="needs bitsandbytes"):
        load_target("a/model", "nf4", "cpu")


def test_tensor_parallelism_cannot_split_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpeckvError, match="cannot split int8"):
        load_target("a/model", "int8", "cpu", "tensor parallel")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "processes", "advice"),
    [
        (9, 3, 2, "start 3 processes"),
        (4, 2, 4, "start 2 processes"),
        (12, 6, 4, "start 2 or 3 or 6 processes"),
        (4, 1, 2, "start one process"),
    ],
)
def test_heads_that_the_processes_cannot_share_are_refused_before_the_weights(
    target_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    heads: int,
    kv_heads: int,
    processes: int,
    advice: str,
) -> None:
    folder = tmp_path / "target"
    shutil.copytree(target_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": 16 * heads, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    command = ["generate", "w5", "--target", str(folder), "--draft", "early-exit:2", "--device", "cpu"]
    assert main([*command, "--tensor-parallel"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"error: target '{folder}' has {heads} attention heads and {kv_heads} key-value heads, which {processes} "
        f"processes cannot share evenly: {advice}, or use --device-map auto"
    ]


def test_heads_that_are_not_split_may_be_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Phi-3 gathers what the processes computed of queries, keys and values: each has all heads.
    Phi3Config(num_attention_heads=9, num_key_value_heads=3, hidden_size=144).save_pretrained(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_heads(str(tmp_path))


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpeckvError, match="no tokenizer can be loaded from"):
        load_target(str(tmp_path), "fp32", "cpu")


def test_eos_and_prompts_without_a_chat_template(target_folder: Path) -> None:
    target = load_target(str(target_folder), "fp32", "cpu")
    assert target.eos == frozenset()
    assert encode_prompt(target.tokenizer, "w7 w8") == [7, 8]
    target.tokenizer.chat_template = "w1 {{ messages[0]['content'] }} w2"
    assert target.encode("w7 w8") == [1, 7, 8, 2]


def test_incomplete_and_damaged_weights_are_refused(target_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(target_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpeckvError, match=r"lacks 1 weights, first model\.layers\.1\.mlp\.up_proj"):
        load_target(str(folder), "fp32", "cpu")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(SpeckvError, match="no model can be loaded"):
        load_target(str(folder), "fp32", "cpu")
