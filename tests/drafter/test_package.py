from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from export.drafter import package
from export.drafter.agreement import Agreement, measure_agreement
from export.drafter.corpus import Documents
from export.drafter.package import Origin, write_package
from export.drafter.students import make_student
from export.manifest import manifest
from runtime.errors import SpeckvError
from runtime.manifest import read_files
from runtime.pair.drafter import dequantise, load_drafter, own_parts, quantise
from runtime.prompts import Prompt
from tests.drafter.conftest import tiny_target

ORIGIN = Origin("HuggingFaceTB/SmolLM2-tiny", "python -m export drafter ...", 42, "CPU", "torch x", 10, 1000, 500, 0.1)
AGREEMENT = Agreement(0.625, {"code": 0.75, "chat": 0.5}, 64)


@pytest.fixture
def folder(target: PreTrainedModel, tmp_path: Path) -> Path:
    student = make_student(target, 2, 1e-3)
    folder = tmp_path / "2-layers"
    write_package(folder, quantise(student.own.state_dict()), [0, 3], target, AGREEMENT, ORIGIN)
    return folder


def test_loaded_weights_are_the_dequantised_ones(target: PreTrainedModel, folder: Path) -> None:
    original = own_parts(make_student(target, 2, 1e-3).model).state_dict()
    stored = quantise(original)
    loaded = own_parts(load_drafter(folder, target)).state_dict()
    for name, weight in dequantise(stored).items():
        assert torch.equal(loaded[name], weight)
        step = weight.abs().max() / 127 if weight.dim() == 2 else 2e-3
        assert (weight - original[name]).abs().max() <= 0.51 * step + 1e-3
    assert stored["layers.0.self_attn.q_proj.weight"].dtype == torch.int8


def test_embedding_and_head_are_the_targets_own(target: PreTrainedModel, folder: Path) -> None:
    drafter = load_drafter(folder, target)
    assert drafter.get_input_embeddings() is target.get_input_embeddings()
    assert drafter.lm_head is target.lm_head
    assert drafter.config.num_hidden_layers == 2
    assert target.config.num_hidden_layers == 4
    assert drafter.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False).shape[1] <= 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_of_the_same_target_are_accepted(folder: Path, dtype: torch.dtype) -> None:
    drafter = load_drafter(folder, tiny_target().to(dtype))
    assert drafter.model.layers[0].self_attn.q_proj.weight.dtype == dtype


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_targets_are_accepted(target: PreTrainedModel, folder: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    target.save_pretrained(tmp_path / "target")
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4")
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "target", quantization_config=config, dtype=torch.float32
    )
    drafter = load_drafter(folder, quantised)
    assert drafter.lm_head is quantised.lm_head
    assert type(drafter.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert drafter(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_wrong_targets_are_refused(folder: Path) -> None:
    with pytest.raises(SpeckvError, match="hidden_size 32, this one has 64"):
        load_drafter(folder, tiny_target(hidden_size=64))
    with pytest.raises(SpeckvError, match="num_hidden_layers 4, this one has 5"):
        load_drafter(folder, tiny_target(num_hidden_layers=5))
    with pytest.raises(SpeckvError, match="other weights of this architecture"):
        load_drafter(folder, tiny_target(seed=1))


@pytest.mark.parametrize("name", ["drafter.safetensors", "config.json"])
def test_a_damaged_file_is_refused(target: PreTrainedModel, folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(SpeckvError, match=rf"{name} differs from its sha256"):
        load_drafter(folder, target)


def test_missing_files_are_refused(target: PreTrainedModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match="no folder"):
        load_drafter(tmp_path / "nowhere", target)
    (folder / "drafter.safetensors").unlink()
    with pytest.raises(SpeckvError, match=r"drafter\.safetensors: no such file"):
        load_drafter(folder, target)


def test_a_newer_format_is_refused(target: PreTrainedModel, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    repack(folder, "config.json", json.dumps({**config, "format_version": 2}).encode())
    with pytest.raises(SpeckvError, match="format_version 2"):
        load_drafter(folder, target)


def test_a_manifest_of_the_first_format_is_read(target: PreTrainedModel, folder: Path) -> None:
    names = ("LICENSE", "README.md", "config.json", "drafter.safetensors")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "MANIFEST.json").write_text(json.dumps({"files": hashes}))
    assert load_drafter(folder, target).config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config.json", b"[1]", "not a JSON object"),
        ("config.json", b"[" * 100_000, "not JSON"),
        ("config.json", b'{"format_version": 1}', "source_layers"),
        ("drafter.safetensors", b"", "no weights of a drafter"),
        ("drafter.safetensors", save({"norm.weight": torch.ones(32)}), "no weights of a drafter"),
        ("drafter.safetensors", save({"target.embedding_sample": torch.ones(3)}), "no weights of a drafter"),
    ],
)
def test_a_well_packed_nonsense_is_refused(
    target: PreTrainedModel, folder: Path, name: str, content: bytes, named: str
) -> None:
    repack(folder, name, content)
    with pytest.raises(SpeckvError, match=named):
        load_drafter(folder, target)


def repack(folder: Path, name: str, content: bytes) -> None:
    """Put another content into a package, with a manifest that agrees."""
    (folder / name).write_bytes(content)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}
    (folder / "MANIFEST.json").write_bytes(manifest(package.PACKAGE_NAME, files))


def test_card_holds_the_measured_figures(folder: Path) -> None:
    read_files(folder, "LICENSE", "README.md", "config.json", "drafter.safetensors")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nbase_model: HuggingFaceTB/SmolLM2-tiny\n")
    assert "**0.625**" in card
    assert "| code | 0.750 |" in card
    assert "Seed 42" in card
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_a_package_replaces_an_older_one_and_nothing_else(target: PreTrainedModel, folder: Path) -> None:
    stored = quantise(make_student(target, 1, 1e-3).own.state_dict())
    beside = folder.with_name("2-layers.old")
    beside.mkdir()
    (folder / "own").write_text("x")
    with pytest.raises(SpeckvError, match="holds 'own', which is not part of a speckv-drafter package"):
        write_package(folder, stored, [3], target, AGREEMENT, ORIGIN)
    assert load_drafter(folder, target).config.num_hidden_layers == 2
    (folder / "own").unlink()
    size = write_package(folder, stored, [3], target, AGREEMENT, ORIGIN)
    assert load_drafter(folder, target).config.num_hidden_layers == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["2-layers", "2-layers.old"]
    assert size == sum(path.stat().st_size for path in folder.iterdir())


def test_agreement_counts_positions_per_task(target: PreTrainedModel) -> None:
    tokens = [5, 6, 7, 8]
    best = target(torch.tensor([tokens])).logits[0].argmax(-1).tolist()
    right = [*tokens, best[-1]]
    wrong = [*tokens, (best[-1] + 1) % 96]
    prompts = [Prompt(0, "code", "a"), Prompt(1, "chat", "b"), Prompt(2, "chat", "c")]
    measured = measure_agreement(target, Documents.of([right, wrong, right], [4, 4, 4]), prompts)
    assert measured == Agreement(2 / 3, {"code": 1.0, "chat": 0.5}, 3)


def test_limit_is_sixteen_megabytes() -> None:
    assert package.SIZE_LIMIT == 16_000_000
