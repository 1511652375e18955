"""Drafts: the target's own first layers, other models, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from accelerate import dispatch_model

from export.drafter.agreement import Agreement
from export.drafter.package import Origin, write_package
from export.drafter.students import make_student
from runtime import SpeckvError
from runtime.pair.draft import load_draft
from runtime.pair.drafter import load_drafter, quantise
from runtime.pair.early_exit import early_exit
from runtime.pair.target import Target, load_target
from tests.loop.tiny import tiny_model


@pytest.fixture(scope="module")
def target(target_folder: Path) -> Target:
    return load_target(str(target_folder), "fp32", "cpu")


def test_an_early_exit_draft_shares_every_weight_and_leaves_the_target_whole(target: Target) -> None:
    before = target.model(torch.tensor([[1, 2, 3]])).logits
    draft = load_draft("early-exit:2", target)
    assert len(draft.model.layers) == draft.config.num_hidden_layers == 2
    own = {parameter.data_ptr() for parameter in target.model.parameters()}
    assert {parameter.data_ptr() for parameter in draft.parameters()} < own
    assert len(target.model.model.layers) == target.model.config.num_hidden_layers == 3
    torch.testing.assert_close(target.model(torch.tensor([[1, 2, 3]])).logits, before)


def test_an_early_exit_draft_is_the_truncated_model(target: Target) -> None:
    draft = early_exit(target.model, 1)
    state = {k: v for k, v in target.model.state_dict().items() if ".layers." not in k or ".layers.0." in k}
    truncated = tiny_model(seed=9, layers=1, hidden=64)
    truncated.load_state_dict(state)
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(draft(ids).logits, truncated(ids).logits)


def test_an_early_exit_draft_of_a_spread_target_is_the_one_of_the_whole_target() -> None:
    model = tiny_model(seed=1, layers=4)
    ids = torch.tensor([[5, 6, 7]])
    alone, full = early_exit(model, 2)(ids).logits, model(ids).logits
    assert not torch.equal(alone, full)
    # What `--device-map auto` leaves on several GPUs: hooks around the whole model and around every part.
    dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    draft = early_exit(model, 2)
    assert torch.equal(draft(ids).logits, alone)
    assert torch.equal(model(ids).logits, full)
    assert hasattr(draft, "_hf_hook")  # which brings the logits back to the input's device
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in draft.parameters()} < own


@pytest.mark.parametrize("name", ["early-exit:0", "early-exit:3", "early-exit:x", "early-exit:-1"])
def test_impossible_early_exits_are_refused(target: Target, name: str) -> None:
    with pytest.raises(SpeckvError, match="early-exit"):
        load_draft(name, target)


def test_a_model_folder_of_the_same_vocabulary_drafts(target: Target, target_folder: Path) -> None:
    assert load_draft(str(target_folder), target).config.num_hidden_layers == 3


def test_another_vocabulary_is_refused_with_the_first_difference(
    target: Target, target_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(target_folder, folder)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"w7"', '"x7"'), encoding="utf-8")
    with pytest.raises(SpeckvError, match=r"different vocabularies .*'w7' is None against 7"):
        load_draft(str(folder), target)


def test_another_target_needs_a_draft_by_name(target: Target) -> None:
    with pytest.raises(SpeckvError, match="no draft ships for target"):
        load_draft(None, target)


@pytest.fixture
def drafter(target: Target, tmp_path: Path) -> Path:
    student = make_student(target.model, 2, 1e-3)
    origin = Origin(target.name, "a command", 42, "CPU", "torch", 1, 1, 1, 0.1)
    folder = tmp_path / "drafter"
    write_package(folder, quantise(student.own.state_dict()), [0, 2], target.model, Agreement(0.5, {}, 1), origin)
    return folder


def test_a_drafter_package_drafts_from_its_folder_and_from_the_hub(
    target: Target, drafter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, sorted(allow_patterns)))
        return str(drafter)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = ["MANIFEST.json", "config.json", "drafter.safetensors"]
    drafts = [
        load_draft(str(drafter), target),
        load_draft("someone/drafter", target),
        load_drafter("someone/drafter", target.model, revision="v1"),
    ]
    assert asked == [("someone/drafter", None, files), ("someone/drafter", "v1", files)]
    ids = torch.tensor([[5, 6, 7]])
    for draft in drafts:
        assert draft.config.num_hidden_layers == 2
        torch.testing.assert_close(draft(ids).logits, drafts[0](ids).logits, rtol=0, atol=0)


def test_another_model_of_the_hub_is_no_drafter_package(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("runtime.pair.draft.check_vocabulary", lambda name, _: asked.append(name))
    monkeypatch.setattr("runtime.pair.draft.load_model", lambda name, *_: asked.append(name))
    load_draft("someone/model", target)
    assert asked == ["someone/model"] * 2


def test_a_missing_draft_is_named(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpeckvError, match="no tokenizer"):
        load_draft(str(tmp_path / "nothing"), target)
