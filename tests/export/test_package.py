"""The package as a whole: complete, reproducible, replaced in one step or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml

import export
from export import package_folder as package
from export import readme
from export.package_folder import check_destination, replacing
from export.predictor import command
from export.predictor.contents import FILES
from export.predictor.decision_graph import build_decision
from export.predictor.parity import ParityError, check_parity
from export.predictor.predictor_graph import build_predictor
from export.predictor.weights import Weights
from runtime.artifacts import package_folder
from runtime.contract import (
    CONFIG_FILE,
    DECISION_FILE,
    MANIFEST_FILE,
    PACKAGE_NAME,
    PICKLE_FILE,
    PREDICTOR_FILE,
    WEIGHTS_FILE,
)
from runtime.errors import SpeckvError
from tests.export.conftest import OLD_PICKLE, ROOT, contents, pickled, run

SHIPPED = package_folder()
CONFIG_KEYS = ["model_name", "description", "architecture", "input_features", "output", "usage", "training",
               "performance", "files", "license", "paper", "repository"]  # fmt: skip


@pytest.mark.parametrize("shipped", [True, False])
def test_manifest_seals_every_file(shipped: bool, exported: Path) -> None:
    folder = SHIPPED if shipped else exported
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    files = contents(folder)
    assert set(files) == set(FILES)
    assert {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items() if name != MANIFEST_FILE
    }
    assert set(manifest["producers"]) == {"numpy", "onnx", "scikit-learn", "skl2onnx"}


def test_exporting_twice_gives_the_same_bytes(records_csv: Path, exported: Path, tmp_path: Path) -> None:
    assert run("--records", records_csv, "--output", tmp_path / "again") == 0
    assert contents(tmp_path / "again") == contents(exported)
    assert run("--records", records_csv, "--output", tmp_path / "again") == 0  # over itself
    assert contents(tmp_path / "again") == contents(exported)


def test_rebuilding_the_shipped_package_changes_nothing(tmp_path: Path) -> None:
    producers = json.loads((SHIPPED / MANIFEST_FILE).read_text())["producers"]
    installed = {name: version(name) for name in producers}
    if installed != producers:
        pytest.skip(f"the shipped package was built with {producers}, here are {installed}")
    assert run("--output", tmp_path / "rebuilt") == 0
    assert contents(tmp_path / "rebuilt") == contents(SHIPPED)


def test_shipped_config_has_the_published_keys_and_measured_figures() -> None:
    config = json.loads((SHIPPED / CONFIG_FILE).read_text())
    assert list(config) == CONFIG_KEYS
    assert config["training"]["published_records"]
    assert config["training"]["records"] == 5112
    assert config["architecture"]["layers"] == [6, 16, 1]
    assert config["license"] == "MIT"
    assert set(config["files"]) <= set(FILES)
    with np.load(SHIPPED / WEIGHTS_FILE) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"W1": (6, 16), "b1": (16,), "W2": (16, 1), "b2": (1,)}


def test_version_is_the_distributions() -> None:
    assert f'\nversion = "{export.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def card(folder: Path) -> tuple[dict[str, object], str]:
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), body


def test_card_of_the_shipped_package_is_honest() -> None:
    header, body = card(SHIPPED)
    figures = json.loads((SHIPPED / CONFIG_FILE).read_text())["performance"]
    means = {name: policy["mean"] for name, policy in figures["tokens_per_step"].items()}
    share = figures["chosen_gamma"]["8"] / figures["scored_rows"]
    metrics = header["model-index"][0]["results"][0]["metrics"]
    assert [metric["value"] for metric in metrics] == list(figures["held_out"].values())
    assert header["license"] == "mit"
    assert f"gamma = 8 on {share:.0%} of the steps" in body
    assert f"gives {means['Fixed-best']:.3f}" in " ".join(body.split())
    assert "refitted with the scored rows" in " ".join(body.split())
    assert "not more tokens per second" in " ".join(body.split())
    assert "mean squared error of 0.08962 and a correlation of 0.68533." in " ".join(body.split())  # as published
    assert "mean squared error 0.08962 and correlation 0.68533 on 1,023" in readme.predictor()
    assert "Shikhar Shukla" in body
    assert "Shikhar Shukla" in (SHIPPED / "LICENSE").read_text()


def test_code_in_the_card_runs_where_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", card(SHIPPED)[1], flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", code], cwd=SHIPPED, capture_output=True, text=True, check=True)
    assert re.match(r"[2468] \[", result.stdout)


def test_card_of_own_records_does_not_claim_the_papers(exported: Path) -> None:
    header, body = card(exported)
    assert header["license"] == "other"
    assert "Shukla)." not in body
    assert "Shikhar Shukla" not in (exported / "LICENSE").read_text()
    assert json.loads((exported / CONFIG_FILE).read_text())["license"] == "see LICENSE"


def test_a_pickle_alone_is_not_credited_with_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pickle", OLD_PICKLE, "--output", tmp_path / "p") == 0
    assert "is not known" in capsys.readouterr().out
    config = json.loads((tmp_path / "p" / CONFIG_FILE).read_text())
    assert (config["training"], config["performance"]) == (None, None)
    header, body = card(tmp_path / "p")
    assert "was not measured" in body
    assert "model-index" not in header
    assert (tmp_path / "p" / PICKLE_FILE).read_bytes() == OLD_PICKLE.read_bytes()


def test_figures_stay_with_their_pickle_and_only_with_it(exported: Path, own_pickle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)
    assert run("--pickle", own_pickle, "--output", folder) == 0
    assert contents(folder) == contents(exported)
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["performance"]["held_out"]["mse"] = 0.0
    (folder / CONFIG_FILE).write_text(json.dumps(config))  # figures that no fit gave
    assert run("--pickle", own_pickle, "--output", folder) == 0
    assert json.loads((folder / CONFIG_FILE).read_text())["performance"] is None
    shutil.rmtree(folder)
    shutil.copytree(exported, folder)
    assert run("--pickle", OLD_PICKLE, "--output", folder) == 0
    assert json.loads((folder / CONFIG_FILE).read_text())["performance"] is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "holds 'notes.txt' but is not a speckv-mlp16 package"),
        ([PICKLE_FILE, ".git"], "holds '.git' but is not a speckv-mlp16 package"),
        ([PICKLE_FILE, "README.md"], "holds 'README.md' but is not a speckv-mlp16 package"),
        ([PICKLE_FILE], f"holds '{PICKLE_FILE}' but is not a speckv-mlp16 package"),
        (["README.md", "LICENSE"], "holds 'LICENSE' but is not a speckv-mlp16 package"),
        (["README.md", MANIFEST_FILE], "holds 'MANIFEST.json' but is not a speckv-mlp16 package"),
    ],
)
def test_a_folder_that_is_not_a_package_is_left_alone(
    names: list[str], message: str, own_pickle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    assert run("--pickle", own_pickle, "--output", folder) == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == dict.fromkeys(names, b"mine")


@pytest.mark.parametrize("foreign", ["notes.txt", ".git", "README.md"])
def test_a_package_with_a_file_that_its_manifest_does_not_list_is_left_alone(
    foreign: str, exported: Path, own_pickle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"].pop(foreign, None)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / foreign).write_text("mine")
    before = contents(folder)
    assert run("--pickle", own_pickle, "--output", folder) == 2
    assert f"holds '{foreign}', which is not part" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize("manifest", ["{}", "[]", '{"speckv_format": "1", "package": "other", "files": {}}', "\x00"])
def test_a_manifest_of_something_else_is_none(manifest: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "package")
    (tmp_path / "package" / MANIFEST_FILE).write_text(manifest)
    with pytest.raises(SpeckvError, match="is not a speckv-mlp16 package"):
        check_destination(tmp_path / "package", PACKAGE_NAME, FILES)


def test_the_root_folder_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--records", tmp_path / "own.csv", "--output", "/") == 2
    assert "is not a speckv-mlp16 package" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["package", "deeper/package"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_fitted(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was read")

    monkeypatch.setattr("export.predictor.command.read_records", never)
    (tmp_path / "file").touch()
    assert run("--records", tmp_path / "own.csv", "--output", tmp_path / "file" / below) == 2
    assert f"{tmp_path / 'file'} is no folder that may be written" in capsys.readouterr().err
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: mode == os.F_OK and access(path, mode))  # root may do anything
    assert run("--records", tmp_path / "own.csv", "--output", tmp_path / below) == 2
    assert f"{tmp_path} is no folder that may be written" in capsys.readouterr().err


def test_files_empty_folders_links_and_bare_manifests(
    own_pickle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pickle", own_pickle, "--output", own_pickle) == 2
    assert "is a file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert run("--pickle", own_pickle, "--output", tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink()
    assert set(contents(tmp_path / "empty")) == set(FILES)
    (tmp_path / "empty" / PICKLE_FILE).unlink()
    check_destination(tmp_path / "empty", PACKAGE_NAME, FILES)  # still known by its manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "own.pkl"]  # nothing temporary stays


@pytest.mark.parametrize("step", ["write", "parity", "swap"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_at_any_point_leaves_the_old_package_whole(
    step: str, error: BaseException, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)

    def fail(*_: object) -> None:
        raise error

    target = {"write": (Path, "write_bytes"), "parity": (command, "check_parity"), "swap": (package, "_swap")}[step]
    monkeypatch.setattr(*target, fail)
    assert run("--pickle", OLD_PICKLE, "--output", folder) == (130 if error is KeyboardInterrupt else 2)
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert error is KeyboardInterrupt or "No space left on device; the old package is untouched" in message
    assert contents(folder) == contents(exported)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_what_was_put_there_meanwhile_stays(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)

    def export() -> None:
        with replacing(folder, PACKAGE_NAME, FILES):
            (folder / "thesis.txt").write_text("years of work")

    with pytest.raises(SpeckvError, match="thesis"):
        export()
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


KILLED = """
import os, signal, sys
from export.__main__ import main
from export import package_folder as package
kill = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "between renames":
    rename, package._exchange = os.rename, lambda *arguments: False
    package.Path.rename = lambda self, to: kill() if self.name.endswith(".new") else rename(self, to)
else:
    package._swap = kill
main(["--pickle", sys.argv[1], "--output", sys.argv[2]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("moment", ["before the swap", "between renames"])
def test_a_killed_export_loses_nothing(moment: str, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)
    killed = subprocess.run([sys.executable, "-c", KILLED, OLD_PICKLE, folder, moment], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.glob(".package.*.new")
    if moment == "before the swap":
        assert contents(folder) == contents(exported)
    else:
        assert contents(tmp_path / ".package.previous") == contents(exported)
    os.utime(leftover, (time.time() - 7200,) * 2)
    # The next export puts things right before it writes.
    with replacing(folder, PACKAGE_NAME, FILES) as staging:
        assert contents(folder) == contents(exported)
        (staging / PICKLE_FILE).write_text("new")
    assert contents(folder) == {PICKLE_FILE: b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_without_an_exchange_call_the_swap_is_two_renames_or_none(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "_exchange", lambda *_: False)
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)
    assert run("--pickle", OLD_PICKLE, "--output", folder) == 0
    assert (folder / PICKLE_FILE).read_bytes() == OLD_PICKLE.read_bytes()
    before, rename = contents(folder), Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(18, "Invalid cross-device link")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(SpeckvError, match="Invalid cross-device link"),
        replacing(folder, PACKAGE_NAME, FILES) as staging,
    ):
        (staging / PICKLE_FILE).write_text("new")
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_exchange_swaps_two_folders_in_one_call(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("renameat2 is a Linux call")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    assert package._exchange(tmp_path / "first", tmp_path / "second")
    assert [(tmp_path / name / "which").read_text() for name in ("first", "second")] == ["second", "first"]
    assert not package._exchange(tmp_path / "first", tmp_path / "absent")


@pytest.mark.parametrize("file", [WEIGHTS_FILE, PREDICTOR_FILE, DECISION_FILE])
def test_parity_notices_a_file_of_other_weights(file: str, exported: Path, tmp_path: Path) -> None:
    parity = check_parity(exported, np.array([[0.5, 0.9, 1.0, 0.8, 2, 4]] * 3))
    assert parity.largest <= 1e-6
    assert parity.rows == 100_756 + 3
    shutil.copytree(exported, tmp_path / "package")
    (tmp_path / "package" / file).write_bytes((SHIPPED / file).read_bytes())
    with pytest.raises(ParityError, match=rf"{file}: row \d+ \[.*exceeds 1e-06"):
        check_parity(tmp_path / "package")


def test_parity_is_with_the_pickle_in_the_folder(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "package")
    (tmp_path / "package" / PICKLE_FILE).write_bytes((SHIPPED / PICKLE_FILE).read_bytes())
    with pytest.raises(ParityError, match=rf"{WEIGHTS_FILE}: row \d+ \[.*exceeds 1e-06"):
        check_parity(tmp_path / "package")


def test_parity_notices_a_wrong_gamma_and_a_graph_that_does_not_run(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "package")
    decision = tmp_path / "package" / DECISION_FILE
    decision.write_bytes(decision.read_bytes().replace(b"ArgMax", b"ArgMin"))  # right rates, wrong choice
    with pytest.raises(ParityError, match=rf"{DECISION_FILE}: row \d+ .* gives gamma \d, the published loop \d"):
        check_parity(tmp_path / "package")
    decision.write_bytes(b"not a graph")
    with pytest.raises(ParityError, match=f"{DECISION_FILE}: onnxruntime cannot run it"):
        check_parity(tmp_path / "package")


def test_parity_counts_exact_ties_apart(tmp_path: Path) -> None:
    nothing = Weights(np.zeros((6, 3)), np.zeros(3), np.zeros((3, 1)), np.zeros(1))  # every row ties
    (tmp_path / PICKLE_FILE).write_bytes(pickled(nothing.regressor()))
    (tmp_path / WEIGHTS_FILE).write_bytes(nothing.npz())
    (tmp_path / PREDICTOR_FILE).write_bytes(build_predictor(nothing, 17, "none"))
    graph = build_decision(nothing, 17, "none")
    (tmp_path / DECISION_FILE).write_bytes(graph)
    assert check_parity(tmp_path).gamma_ties == 0
    last_wins = graph.replace(b"select_last_index\x18\x00", b"select_last_index\x18\x01")
    (tmp_path / DECISION_FILE).write_bytes(last_wins)
    parity = check_parity(tmp_path)
    assert parity.gamma_ties == parity.rows


def test_failed_parity_writes_nothing_and_exits_1(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(exported, folder)
    monkeypatch.setattr(Weights, "npz", lambda _: (SHIPPED / WEIGHTS_FILE).read_bytes())
    assert run("--pickle", OLD_PICKLE, "--output", folder) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: parity failed, nothing was written: {WEIGHTS_FILE}: row ")
    assert captured.out == ""
    assert contents(folder) == contents(exported)
