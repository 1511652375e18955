"""The replay command as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime.__main__ import main

TIMES = {"draft": {"eager1": 1.0}, "fp16": {"eager1": 4.0, "eager17": 20.0}, "int8": {"eager1": 9.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rollouts = np.full((12, 16, 4), 0.5, np.float16)
    rollouts[:, :, 0] = 0
    rollouts[:9, :3, 0] = 1
    np.savez(tmp_path / "pair_fp16.npz", **{"0_code": rollouts, "1_chat": rollouts})
    np.savez(tmp_path / "int8.npz", **{"0_code": rollouts})
    np.savez(tmp_path / "plain.npz", **{"0_code": rollouts})
    (tmp_path / "times.json").write_text(json.dumps(TIMES))
    return tmp_path


def run(folder: Path, traces: Sequence[str], *more: str) -> int:
    paths = [str(folder / name) for name in traces]
    try:
        return main(["replay", "--traces", *paths, "--step-times", str(folder / "times.json"), *more])
    except SystemExit as end:  # argparse leaves this way
        return int(end.code or 0)


def test_json_holds_every_policy_and_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["none", "fixed:3", "confidence:0.2", "bandit", "oracle"]
    assert run(folder, ["pair_fp16.npz", "int8.npz"], "--policies", *policies, "--json") == 0
    fp16, int8 = json.loads(capsys.readouterr().out)
    assert (fp16["compression"], int8["compression"], fp16["backend"]) == ("fp16", "int8", "eager")
    assert list(fp16["scores"]) == policies
    assert list(fp16["scores"]["none"]) == ["overall", "code", "chat"]
    assert list(int8["best_fixed"]) == ["overall", "code"]
    score = fp16["scores"]["fixed:3"]["overall"]
    assert score["tokens"] == 24
    assert score["tokens_per_step"] == 4.0
    assert 0 < score["policy_share"] < 0.5


def test_the_table_names_every_default_policy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, ["plain.npz"], "--compression", "fp16") == 0
    output = capsys.readouterr().out
    for name in ("none", "speckv", "svip:0.3", "throughput", "oracle", "best fixed gamma: overall"):
        assert name in output


@pytest.mark.parametrize(
    ("traces", "more", "said"),
    [
        (["plain.npz"], [], "--compression"),
        (["int8.npz"], ["--backend", "graph"], "no graph step times"),
        (["pair_fp16.npz"], ["--compression", "nf4"], "no step times of 'nf4'"),
        (["missing_fp16.npz"], [], "missing_fp16.npz"),
        (["pair_fp16.npz"], ["--policies", "magic"], "magic"),
        (["pair_fp16.npz"], ["--backend", "tpu"], "tpu"),
        (["pair_fp16.npz"], ["--unknown"], "--unknown"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], traces: list[str], more: list[str], said: str
) -> None:
    assert run(folder, traces, *more) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("name", ["fp16[bold]x.npz", "fp16_[#x].npz", "fp16_:bomb:.npz"])
def test_a_file_of_any_name_is_shown_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (folder / "pair_fp16.npz").rename(folder / name)
    assert run(folder, [name], "--policies", "none") == 0
    assert name in capsys.readouterr().out


def test_a_name_does_not_steer_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pair_fp16.npz").rename(folder / "fp16_\x1b[31m.npz")
    assert run(folder, ["fp16_\x1b[31m.npz"], "--policies", "none") == 0
    output = capsys.readouterr().out
    assert "fp16_\\x1b[31m.npz" in output
    assert "\x1b" not in output


def test_the_table_of_four_tasks_fits_80_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with np.load(folder / "int8.npz") as arrays:
        rollouts = arrays["0_code"]
    tasks = ("code", "math", "chat", "summarization")
    np.savez(folder / "four_fp16.npz", **{f"{i}_{task}": rollouts for i, task in enumerate(tasks)})
    assert run(folder, ["four_fp16.npz"], "--policies", "moving-average", "none") == 0
    output = capsys.readouterr().out
    assert "…" not in output
    words = output.split()
    assert {"overall", "code", "math", "chat", "tokens", "per", "step", "mean", "gamma", "policy's", "time"} <= {*words}
    assert max(map(len, output.splitlines())) <= 80
