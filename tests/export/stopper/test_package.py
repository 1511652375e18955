"""The package's files: the same for the same model, true to each other; and the shipped one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from export.stopper.card import model_card
from export.stopper.evaluation import FOLDS, SIGNALS
from export.stopper.fit import Weights
from export.stopper.graph import build_stopper
from export.stopper.package import FILES, TOLERANCE, WEIGHTS_FILE, check_parity, package_files
from export.stopper.rows import Rows, text_rows
from runtime import SpeckvError
from runtime.artifacts import package_folder
from runtime.contract import CONFIG_FILE, MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.replay.traces import Text
from runtime.stopper.history import History
from runtime.stopper.stopper import FEATURES, Stopper
from tests.export.stopper.traces import made_texts
from tests.stopper.packages import numpy_answer, random_weights

TRAINING = {"seed": 1, "decisions": 1234, "traces": [{"file": "fp16.npz", "texts": 7, "sha256": "ab"}]}
PERFORMANCE: dict[str, Any] = {
    "folds": FOLDS,
    "replayed": ["fp16 eager"],
    "signals": [
        {"signals": name, "log_loss": [0.41, 0.52], "calibration_error": 0.013, "ratios": [1.234]} for name in SIGNALS
    ],
    "calibration_error": 0.013,
    "reliability": [],
    "parity": 1.5e-7,
}


def walked(texts: list[Text]) -> Rows:
    """Features as a loop gives them."""
    random = np.random.default_rng(0)
    return Rows.join([text_rows(text, number, History(), random) for number, text in enumerate(texts)])


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that the files agree with each other; return `config.json`."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert sorted(manifest["files"]) == sorted(set(FILES) - {MANIFEST_FILE})
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    model = onnx.load(folder / STOPPER_FILE)
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (manifest["package"], manifest["opset"], manifest["ir_version"]) == (STOPPER_NAME, 17, 8)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert json.loads(properties["features"]) == list(FEATURES)
    assert properties["source_sha256"] == manifest["source_sha256"]
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert config["input_features"]["order"] == list(FEATURES)
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(config)
    weights = shipped_weights(folder)
    assert config["architecture"]["layers"] == [len(FEATURES), len(weights.b1), 2]
    assert config["architecture"]["parameters"] == sum(array.size for array in vars(weights).values())
    return config


def shipped_weights(folder: Path) -> Weights:
    arrays = np.load(folder / WEIGHTS_FILE, allow_pickle=False)
    assert sorted(arrays.files) == ["W1", "W2", "b1", "b2"]
    return Weights(**{name: arrays[name] for name in arrays.files})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for name, data in package_files(random_weights(0), "f" * 64, TRAINING, PERFORMANCE).items():
        (folder / name).write_bytes(data)
    return folder


def test_the_files_agree_with_each_other(folder: Path) -> None:
    config = check_folder(folder)
    assert (config["training"], config["performance"]) == (TRAINING, PERFORMANCE)
    assert all(np.array_equal(*pair) for pair in zip(
        vars(shipped_weights(folder)).values(), vars(random_weights(0)).values(), strict=True
    ))  # fmt: skip


def test_the_same_model_gives_the_same_bytes(folder: Path) -> None:
    again = package_files(random_weights(0), "f" * 64, TRAINING, PERFORMANCE)
    assert again == {name: (folder / name).read_bytes() for name in FILES}
    other = package_files(random_weights(1), "f" * 64, TRAINING, PERFORMANCE)
    assert {name for name in FILES if other[name] != again[name]} == {STOPPER_FILE, WEIGHTS_FILE, MANIFEST_FILE}


def test_the_card_shows_what_was_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| log-loss, last token | 0.4100 | 0.4100 | 0.4100 |" in card
    assert "| fp16 eager | 1.234 | 1.234 | 1.234 |" in card
    assert "at most 1.5e-07" in card
    assert "- fp16.npz: 7 texts, SHA-256 ab" in card
    assert f"{FEATURES.index('distance')}. `distance`" in card


def test_parity_is_with_the_weights(folder: Path, tmp_path: Path) -> None:
    rows = walked(made_texts(tmp_path))
    assert 0 < check_parity(folder, random_weights(0), rows) <= TOLERANCE
    with pytest.raises(SpeckvError, match=rf"{STOPPER_FILE} differs from its weights by \d"):
        check_parity(folder, random_weights(1), rows)
    rows.features[0, 0] = np.nan
    with pytest.raises(SpeckvError, match="by nan"):
        check_parity(folder, random_weights(0), rows)


def test_a_batch_answers_as_its_rows() -> None:
    session = onnxruntime.InferenceSession(build_stopper(random_weights(0), "x"), providers=["CPUExecutionProvider"])
    features = np.random.default_rng(0).normal(0, 2, (50, len(FEATURES))).astype(np.float32)
    (batch,) = session.run(None, {"features": features})
    expected = [numpy_answer(random_weights(0), row) for row in features.tolist()]
    np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-6)
    assert session.run(None, {"features": features[:0]})[0].shape == (0, 2)


def test_the_shipped_files_agree_with_each_other() -> None:
    folder = package_folder(STOPPER_NAME)
    config = check_folder(folder)
    performance = config["performance"]
    assert performance["folds"] == FOLDS
    assert [row["signals"] for row in performance["signals"]] == list(SIGNALS)
    assert all(len(row["ratios"]) == len(performance["replayed"]) for row in performance["signals"])
    assert performance["calibration_error"] == performance["signals"][-1]["calibration_error"]
    assert 0 <= performance["parity"] <= TOLERANCE
    assert sum((folder / name).stat().st_size for name in (STOPPER_FILE, WEIGHTS_FILE)) < 20_000


def test_the_shipped_graph_is_its_weights(tmp_path: Path) -> None:
    folder, rows = package_folder(STOPPER_NAME), walked(made_texts(tmp_path, prompts=12))
    weights = shipped_weights(folder)
    assert check_parity(folder, weights, rows) <= TOLERANCE
    stopper = Stopper()
    for row in rows.features[:200].tolist():
        stopper.begin_step(row[:26])
        np.testing.assert_allclose(stopper(row[26:]), numpy_answer(weights, row), rtol=0, atol=TOLERANCE)


def test_the_shipped_model_tells_good_drafts_from_bad_ones(tmp_path: Path) -> None:
    rows = walked(made_texts(tmp_path, prompts=12))  # a made-up pair, whose confidence tells of acceptance
    found = shipped_weights(package_folder(STOPPER_NAME)).probabilities(rows.features)
    counts = rows.weights[:, 0] > 0
    stands = rows.labels[:, 0] == 1
    assert found[counts & stands, 0].mean() > found[counts & ~stands, 0].mean() + 0.1


def test_the_cards_program_runs_in_the_shipped_folder() -> None:
    card = (package_folder(STOPPER_NAME) / "README.md").read_text(encoding="utf-8")
    program = card.partition("```python\n")[2].partition("```")[0]
    config = json.loads((package_folder(STOPPER_NAME) / CONFIG_FILE).read_text(encoding="utf-8"))
    assert config["usage"] == program.splitlines()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=package_folder(STOPPER_NAME), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": ""}, check=True,
    )  # fmt: skip
    probabilities = [float(value) for value in done.stdout.strip(" []\n").split()]
    assert len(probabilities) == 2
    assert all(0 <= value <= 1 for value in probabilities)
