"""Packages of every format are read and answer what they answered; newer ones are refused with what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from integrations.vllm.plan import make_plan
from runtime import GammaSelector, SpeckvError
from runtime.contract import CONFIG_FILE, DECISION_FILE, FORMAT_VERSION, MANIFEST_FILE, STOPPER_FILE
from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel
from runtime.manifest import read_files, read_manifest
from runtime.pair import drafter
from runtime.pair.drafter import load_drafter
from runtime.policies.fixed import Fixed
from runtime.policies.step_times import read_step_times
from runtime.profile import store
from runtime.profile.store import MANIFEST, Store
from runtime.replay.replay import replay
from runtime.replay.traces import read_traces
from runtime.stopper import history, progress
from runtime.stopper.stopper import Stopper

GOLDEN = Path(__file__).resolve().parent / "golden"
SEALED = sorted(folder.name for folder in GOLDEN.iterdir() if (folder / MANIFEST_FILE).is_file())


@pytest.fixture(scope="module")
def target() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "target", dtype=torch.float32).eval()  # type: ignore[no-any-return]


def copy(name: str, folder: Path, file: str, **changes: object) -> Path:
    """Copy a golden folder with changed entries of one of its JSON files."""
    shutil.copytree(GOLDEN / name, folder)
    content = json.loads((folder / file).read_bytes())
    (folder / file).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


def test_every_format_that_was_ever_written_is_here() -> None:
    sealed = {f"{name}-{number}" for name in ("speckv-mlp16", "speckv-stopper", "drafter") for number in (0, 1)}
    assert set(SEALED) == sealed - {"speckv-mlp16-0", "speckv-stopper-0"}  # format 0 was that of the first drafters
    assert (FORMAT_VERSION, drafter.FORMAT_VERSION, store.FORMAT_VERSION) == ("1", 1, 2)


@pytest.mark.parametrize("name", SEALED)
def test_all_files_are_as_they_were_sealed(name: str) -> None:
    assert all(read_files(GOLDEN / name, *read_manifest(GOLDEN / name).hashes))


def test_the_predictor_decides_as_it_did() -> None:
    selector = GammaSelector(GOLDEN / "speckv-mlp16-1")
    rates = {
        "fp16": [0.7515815, 0.719944, 0.6719463, 0.6239487],
        "int8": [0.7598599, 0.7118622, 0.6638645, 0.6158668],
        "nf4": [0.751778, 0.7037804, 0.6557827, 0.607785],
    }
    for compression, wanted in rates.items():
        decision = selector.select((0.9, 0.82, 1.7, 0.55), compression)
        assert decision.gamma == 8
        np.testing.assert_allclose(decision.predicted_acceptance_rate, wanted, atol=1e-6)


def test_the_stopper_answers_as_it_did() -> None:
    stopper = Stopper(GOLDEN / "speckv-stopper-1")
    stopper.begin_step([0.5] * (len(history.NAMES)))
    assert stopper([0.5] * (len(progress.NAMES))) == pytest.approx((0.7836779, 0.7065616), abs=1e-6)


@pytest.mark.parametrize("name", ["drafter-0", "drafter-1"])
def test_drafters_of_both_formats_draft_as_they_did(name: str, target: PreTrainedModel) -> None:
    draft = load_drafter(GOLDEN / name, target)
    assert draft.config.num_hidden_layers == 1
    logits = draft(torch.tensor([[5, 6, 7]])).logits[0, -1]
    assert logits.argmax().item() == 10
    steps = list(speculate(CachedModel(draft), CachedModel(target), [5, 6, 7], Fixed(2), max_new_tokens=8))
    tokens = [token for step in steps for token in step.tokens]
    assert tokens == target.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)[0, 3:].tolist()


@pytest.mark.parametrize(
    ("number", "seconds", "expected"), [(1, False, [(12, 9), (12, 12)]), (2, True, [(12, 12), (12, 12)])]
)
def test_the_profile_replays_as_it_did(number: int, seconds: bool, expected: list[tuple[int, int]]) -> None:
    profile = GOLDEN / f"profile-{number}"
    times = read_step_times(profile / "step_times_ms.json", "fp32", "eager")
    texts = read_traces(profile / "fp32.npz")
    runs = replay(texts, Fixed(2), times)
    assert [(text.key, text.positions, text.verified is not None, text.seconds is not None) for text in texts] == [
        ("0_code", 12, True, seconds),
        ("1_chat", 12, True, seconds),
    ]
    assert [(run.tokens, len(run.steps)) for run in runs] == expected
    assert make_plan(profile, None, "a/draft", lambda *_: None).precision == "fp32"
    assert len(list(Store(profile).read_parts("fp32", 1))) == 6 + 2 * seconds


def test_the_newest_profile_can_be_continued_and_an_older_one_is_left_as_it_is(tmp_path: Path) -> None:
    settings = json.loads((GOLDEN / "profile-2" / MANIFEST).read_bytes())
    del settings["format_version"]
    Store(shutil.copytree(GOLDEN / "profile-2", tmp_path / "new")).begin(settings)
    settings = json.loads((GOLDEN / "profile-1" / MANIFEST).read_bytes())
    del settings["format_version"]
    older = shutil.copytree(GOLDEN / "profile-1", tmp_path / "older")
    with pytest.raises(SpeckvError, match="was begun with format_version 1, not 2: give another --output"):
        Store(older).begin(settings)


@pytest.mark.parametrize(("name", "file"), [("speckv-mlp16-1", DECISION_FILE), ("speckv-stopper-1", STOPPER_FILE)])
def test_a_newer_package_is_refused_with_advice(name: str, file: str, tmp_path: Path) -> None:
    newer = copy(name, tmp_path / "newer", MANIFEST_FILE, speckv_format="2")
    with pytest.raises(SpeckvError, match=r"speckv_format is '2', .* reads up to 1: `pip install --upgrade speckv`"):
        read_files(newer, file)


def test_a_newer_drafter_is_refused_with_advice(tmp_path: Path, target: PreTrainedModel) -> None:
    newer = copy("drafter-1", tmp_path / "newer", MANIFEST_FILE, speckv_format="2")
    with pytest.raises(SpeckvError, match="`pip install --upgrade speckv`"):
        load_drafter(newer, target)
    inside = copy("drafter-1", tmp_path / "inside", CONFIG_FILE, format_version=2)
    manifest = json.loads((inside / MANIFEST_FILE).read_bytes())
    manifest["files"][CONFIG_FILE] = hashlib.sha256((inside / CONFIG_FILE).read_bytes()).hexdigest()
    (inside / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(SpeckvError, match=r"format_version 2, this release reads 1 to 1: `pip install --upgrade"):
        load_drafter(inside, target)


def test_a_newer_profile_is_refused_with_advice(tmp_path: Path) -> None:
    newer = copy("profile-2", tmp_path / "newer", MANIFEST, format_version=3)
    readers = (
        lambda: read_traces(newer / "fp32.npz"),
        lambda: read_step_times(newer / "step_times_ms.json", "fp32", "eager"),
        lambda: make_plan(newer, None, "a/draft", lambda *_: None),
        lambda: Store(newer).begin({}),
    )
    for read in readers:
        with pytest.raises(SpeckvError, match=r"manifest\.json: format_version 3, .*`pip install --upgrade speckv`"):
            read()
    (newer / MANIFEST).write_text('{"format_version": 3, "files": []}')  # somebody else's file of that name
    assert read_traces(newer / "fp32.npz")
