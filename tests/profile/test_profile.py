"""The profile command: what it writes, that it can be continued, and that nobody's files are lost."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.__main__ import main
from runtime.profile import profile as profile_module
from runtime.profile.records import COLUMNS

DETERMINISTIC = ("fp32.npz", "fp32_verified.npz", "fp32_tokens.npz", "records.csv", "manifest.json")
"""Everything but the step times, which are measured."""


def arguments(target: Path, prompts: Path, output: Path, *more: str) -> list[str]:
    pair = ["--target", str(target), "--draft", "early-exit:2", "--precision", "fp32", "--device", "cpu"]
    return ["profile", *pair, "--prompts", str(prompts), "--max-new-tokens", "40", "--output", str(output), *more]


@pytest.fixture(scope="module")
def finished(target_folder: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("profile") / "whole"
    assert main(arguments(target_folder, prompts_file, output)) == 0
    return output


def assert_same(one: Path, other: Path) -> None:
    for name in DETERMINISTIC:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_what_a_profile_holds(finished: Path) -> None:
    with np.load(finished / "fp32.npz") as traces:
        keys = traces.files
        assert keys[:4] == ["0_code", "1_math", "2_chat", "3_code"]
        assert len(keys) == 19
        assert all(traces[key].shape == (40, 16, 4) for key in keys)
    with np.load(finished / "fp32_verified.npz") as verified:
        assert verified.files == keys
        assert verified["0_code"].shape == (40, 3)
    rows = list(csv.DictReader((finished / "records.csv").read_text().splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert {row["gamma"] for row in rows} == {"2", "4", "6", "8"}
    times = json.loads((finished / "step_times_ms.json").read_text())
    assert times["draft"].keys() == {"eager1", "eager2"}
    assert times["fp32"]["eager17"] > 0
    assert times["fp32"]["eager257"] > 0  # a batch of texts in one call
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["precisions"] == ["fp32"]


def test_the_records_refit_the_predictor(finished: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "--records",
        str(finished / "records.csv"),
        "--output",
        str(tmp_path / "p"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p" / "speckv_mlp16_gamma.onnx").is_file()


def test_killed_at_random_and_continued_gives_the_same_files(
    finished: Path, target_folder: Path, prompts_file: Path, tmp_path: Path
) -> None:
    output, chooser, kills = tmp_path / "killed", random.Random(0), 0
    command = [sys.executable, "-m", "runtime", *arguments(target_folder, prompts_file, output)]
    while True:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts_before = set(output.glob("parts/*/*.npz"))
        deadline = time.monotonic() + 60
        # Kill only after some progress, so that the test ends; where exactly is chance.
        while kills < 3 and child.poll() is None and time.monotonic() < deadline:
            if set(output.glob("parts/*/*.npz")) - parts_before or (output / "step_times_ms.json").exists():
                time.sleep(chooser.uniform(0, 0.15))
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        if child.wait() == 0:
            break
        kills += 1
        assert parts_before <= set(output.glob("parts/*/*.npz"))
    assert kills >= 1
    assert_same(finished, output)


def test_two_workers_write_the_same_bytes_as_one(
    finished: Path, target_folder: Path, prompts_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    own = arguments(target_folder, prompts_file, tmp_path / "two")
    done = subprocess.run([*command, "-m", "runtime", *own], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(finished, tmp_path / "two")


def test_other_settings_are_refused_and_nothing_is_touched(
    finished: Path, target_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "manifest.json").read_bytes()
    assert main(arguments(target_folder, prompts_file, finished, "--gammas", "3")) == 2
    assert "gammas" in capsys.readouterr().err
    assert (finished / "manifest.json").read_bytes() == before


def test_a_folder_of_something_else_is_refused(target_folder: Path, prompts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(arguments(target_folder, prompts_file, tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_hidden_files_beside_another_manifest_stay(target_folder: Path, prompts_file: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my app"}')
    (tmp_path / ".settings.json.1").write_text("years of work")
    assert main(arguments(target_folder, prompts_file, tmp_path)) == 2
    assert (tmp_path / ".settings.json.1").read_text() == "years of work"


@pytest.mark.parametrize("more", [("--gammas", "17"), ("--precision", "int3"), ("--gammas", "0")])
def test_what_cannot_be_profiled_is_refused_before_anything_is_loaded(
    target_folder: Path, prompts_file: Path, tmp_path: Path, more: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "load_target", None)
    try:
        code = main(arguments(target_folder, prompts_file, tmp_path / "p", *more))
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("place", ["file", "file/a", "dangling"])
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    place: str,
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile_module, "load_target", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert main(arguments(target_folder, prompts_file, tmp_path / place)) == 2
    assert "give another --output" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_said_with_the_file_and_leaves_no_half_of_it(
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(arguments(target_folder, prompts_file, tmp_path / "new")) == 2
    *_, line = capsys.readouterr().err.splitlines()
    place = tmp_path / "new" / "manifest.json"
    assert line == f"error: {place}: No space left on device: free space, or choose another place"
    assert list((tmp_path / "new").iterdir()) == []
