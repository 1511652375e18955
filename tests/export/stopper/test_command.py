"""`python -m export stopper` as a user meets it: a package, the same for one seed, or one line and nothing changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.stopper import command
from export.stopper.evaluation import FOLDS, SIGNALS
from export.stopper.package import FILES
from runtime import SpeckvError
from runtime.contract import CONFIG_FILE, STOPPER_FILE
from runtime.stopper.stopper import Stopper
from tests.export.conftest import contents, run
from tests.export.stopper.traces import STEP_TIMES, write_step_times, write_traces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of seven prompts in two precisions, one of them without what verification left; tests only read it."""
    folder = tmp_path_factory.mktemp("traces")
    write_traces(folder / "pair_fp16.npz", 7, seed=0)
    write_traces(folder / "nf4.npz", 7, seed=1, verified=False)
    write_traces(folder / "few_fp16.npz", FOLDS - 1, seed=2)
    write_traces(folder / "plain.npz", 7, seed=3)
    write_traces(folder / "fp16_nf4.npz", 7, seed=3)
    write_traces(folder / "int8.npz", 7, seed=4)
    np.savez(folder / "short_fp16.npz", **{f"{place}_code": np.zeros((1, 16, 4), np.float16) for place in range(7)})
    (folder / "broken_fp16.npz").write_bytes(b"PK\x03\x04 and then nothing")
    (folder / "broken.json").write_text("{")
    nowhere = {**STEP_TIMES, "fp16": {"eager1": 21.0, "graph1": "soon"}}
    (folder / "nowhere.json").write_text(json.dumps(nowhere))
    write_step_times(folder / "times.json")
    return folder


def arguments(folder: Path, *names: str, times: str = "times.json") -> list[object]:
    return ["stopper", "--traces", *(folder / name for name in names), "--step-times", folder / times]


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A package and the summary that was printed of it; tests only read them."""
    package = tmp_path_factory.mktemp("exported") / "package"
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        given = arguments(folder, "pair_fp16.npz", "nf4.npz")
        assert run(*given, "--output", package, "--seed", 7, "--json") == 0
    assert "fitting" in errors.getvalue()
    return package, json.loads(output.getvalue(), parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def test_json_says_what_was_made_of_what(folder: Path, exported: tuple[Path, dict[str, Any]]) -> None:
    package, summary = exported
    assert summary["folder"] == str(package)
    assert summary["training"]["seed"] == 7
    assert [source["file"] for source in summary["training"]["traces"]] == ["pair_fp16.npz", "nf4.npz"]
    for source in summary["training"]["traces"]:
        assert source["sha256"] == hashlib.sha256((folder / source["file"]).read_bytes()).hexdigest()
        assert source["texts"] == 7
    beside = hashlib.sha256((folder / "pair_fp16_verified.npz").read_bytes()).hexdigest()
    assert [source["verified_sha256"] for source in summary["training"]["traces"]] == [beside, None]
    performance = summary["performance"]
    assert performance["replayed"] == ["pair_fp16 eager", "pair_fp16 graph", "nf4 eager"]
    assert [row["signals"] for row in performance["signals"]] == list(SIGNALS)
    for row in performance["signals"]:
        assert len(row["ratios"]) == 3
        assert all(0.3 < ratio < 3 for ratio in row["ratios"])
        assert all(0.1 < loss < 1 for loss in row["log_loss"])
    assert 0 < performance["parity"] < 1e-5


def test_the_package_is_whole_and_answers(exported: tuple[Path, dict[str, Any]]) -> None:
    package, summary = exported
    assert sorted(contents(package)) == sorted(FILES)
    config = json.loads((package / CONFIG_FILE).read_text(encoding="utf-8"), parse_constant=_refuse)
    assert {name: config[name] for name in ("training", "performance")} == {
        name: summary[name] for name in ("training", "performance")
    }
    stopper = Stopper(package)
    stopper.begin_step([0.0] * 26)
    assert all(0 < probability < 1 for probability in stopper([1.0, *[0.0] * 10]))


def test_one_seed_gives_the_same_bytes_in_place_of_an_older_package(
    folder: Path,
    exported: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package, summary = exported
    shutil.copytree(package, tmp_path / "package")
    (tmp_path / "package" / STOPPER_FILE).write_bytes(b"older")
    given = arguments(folder, "pair_fp16.npz", "nf4.npz")
    assert run(*given, "--output", tmp_path / "package", "--seed", 7) == 0
    assert contents(tmp_path / "package") == contents(package)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    output = " ".join(capsys.readouterr().out.split())
    for shown in (
        "log-loss, last",
        "calibration error",
        "pair_fp16 graph",
        f"{summary['performance']['signals'][0]['ratios'][0]:.3f}",
    ):
        assert shown in output
    assert str(tmp_path / "package") in output.replace(" ", "")


BAD: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "few prompts": (lambda folder: arguments(folder, "few_fp16.npz"), f"fewer than {FOLDS} prompts"),
    "no precision in the name": (lambda folder: arguments(folder, "plain.npz"), "plain.npz: the name does not say"),
    "two precisions in the name": (lambda folder: arguments(folder, "fp16_nf4.npz"), "fp16_nf4.npz: the name does not"),
    "broken traces": (lambda folder: arguments(folder, "pair_fp16.npz", "broken_fp16.npz"), "broken_fp16.npz"),
    "missing traces": (lambda folder: arguments(folder, "none_fp16.npz"), "none_fp16.npz"),
    "nothing to draft": (lambda folder: arguments(folder, "short_fp16.npz"), "no text of two tokens"),
    "missing step times": (lambda folder: arguments(folder, "nf4.npz", times="none.json"), "none.json"),
    "broken step times": (lambda folder: arguments(folder, "nf4.npz", times="broken.json"), "broken.json"),
    "step times that are none": (lambda folder: arguments(folder, "nf4.npz", times="nowhere.json"), "graph1 is 'soon'"),
    "no step times of it": (lambda folder: arguments(folder, "int8.npz"), "no step times of 'int8'"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line_and_changes_nothing(
    bad: str,
    folder: Path,
    exported: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported[0], tmp_path / "package")
    make, said = BAD[bad]
    for output in (tmp_path / "package", tmp_path / "new" / "package"):
        assert run(*make(folder), "--output", output) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert said in captured.err
        assert captured.out == ""
    assert contents(tmp_path / "package") == contents(exported[0])
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--step", "x"], "unrecognized arguments"),  # no abbreviations
        (["--seed", "-1"], "-1 is below 0"),
        (["--seed", 2**63], f"{2**63} is above {2**62 - 1}"),
        (["--seed", "many"], "'many' is not a whole number"),
        (["--output"], "expected one argument"),
    ],
)
def test_wrong_options_are_refused(
    given: list[object], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments(folder, "nf4.npz"), "--output", tmp_path / "package", *given) == 2
    assert said in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_traces_and_step_times_are_required(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stopper", "--traces", folder / "nf4.npz") == 2
    assert "--step-times" in capsys.readouterr().err
    assert run("stopper", "--step-times", folder / "times.json") == 2
    assert "--traces" in capsys.readouterr().err


def test_a_foreign_folder_is_left_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for output in ("mine", "file"):
        assert run(*arguments(folder, "nf4.npz"), "--output", tmp_path / output) == 2
        assert f"{tmp_path / output}" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "failure", [SpeckvError("the graph differs"), KeyboardInterrupt(), OSError(28, "No space left")]
)
def test_a_failure_on_the_way_leaves_the_old_package(
    failure: BaseException,
    folder: Path,
    exported: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> float:
        raise failure

    monkeypatch.setattr(command, "cross_validate", lambda *_: [])
    monkeypatch.setattr(command, "_performance", lambda *_: exported[1]["performance"])
    monkeypatch.setattr(command, "check_parity", fail)
    shutil.copytree(exported[0], tmp_path / "package")
    code = run(*arguments(folder, "nf4.npz"), "--output", tmp_path / "package")
    assert code == (130 if isinstance(failure, KeyboardInterrupt) else 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert contents(tmp_path / "package") == contents(exported[0])
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stopper", "--help") == 0
    output = capsys.readouterr().out
    assert "python -m export stopper --traces" in output
    assert "--seed N" in output
