"""The bench command: its JSON, its table, what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from runtime.__main__ import main
from runtime.bench import environment, line_up, others
from runtime.bench.clock import Clock
from runtime.commands import bench as command
from runtime.rows import read_rows

POLICIES = ["none", "fixed:2", "speckv-cost", "adaptive"]


def arguments(target: Path, prompts: Path, *more: str) -> list[str]:
    pair = ["--target", str(target), "--draft", "early-exit:2", "--device", "cpu", "--prompts", str(prompts)]
    return ["bench", *pair, "--per-task", "2", "--max-new-tokens", "6", "--policies", *POLICIES, *more]


@pytest.fixture(scope="module")
def result(target_folder: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setenv("SPECKV_CACHE", str(tmp_path_factory.mktemp("cache")))
        more = ("--repeats", "3", "--precision", "fp32", "bf16", "--json")
        assert main(arguments(target_folder, prompts_file, *more)) == 0
    found: list[dict[str, Any]] = json.loads(output.getvalue())["rows"]
    return found


def test_what_the_json_says_of_the_run(result: list[dict[str, Any]]) -> None:
    for row in result:
        assert row["prompts"] == [0, 1, 2, 3, 4, 5]
        assert (row["max_new_tokens"], row["repeats"], row["draft"]) == (6, 3, "early-exit:2")
        assert row["threads"] >= 1
        assert {"python", "torch", "transformers"} <= row["versions"].keys()
        assert row["commit"] == environment.commit()
        assert row["complete"]
    assert [row["precision"] for row in result] == ["fp32", "bf16"]


@pytest.mark.parametrize("place", [0, 1])
def test_the_figures_follow_from_the_runs(result: list[dict[str, Any]], place: int) -> None:
    comparison = result[place]
    contenders = {contender["name"]: contender for contender in comparison["contenders"]}
    took_part = {"transformers", "assisted", "assisted:4", "flashspec", *POLICIES} - comparison["left_out"].keys()
    assert contenders.keys() == took_part
    for task in ("overall", "code", "math", "chat"):
        rates = {}
        for name, contender in contenders.items():
            runs = [run for run in contender["runs"] if task in ("overall", run["task"])]
            assert len(runs) == (6 if task == "overall" else 2)
            assert all(len(run["seconds"]) == 3 for run in runs)
            seconds = sum(median(run["seconds"]) for run in runs)
            rates[name] = sum(median(run["tokens"]) for run in runs) / seconds
            steps = sum(sum(run["steps"]) for run in runs)
            score = contender["scores"][task]
            assert score["tokens_per_second"] == pytest.approx(rates[name])
            assert score["tokens_per_step"] == pytest.approx(sum(sum(run["tokens"]) for run in runs) / steps)
            assert score["mean_gamma"] == pytest.approx(sum(sum(run["drafted"]) for run in runs) / steps)
            assert score["interval"][0] <= rates[name] <= score["interval"][1]
        best = comparison["best_fixed"][task]
        assert rates[best] == max(rates["none"], rates["fixed:2"])
        for name, contender in contenders.items():
            assert contender["scores"][task]["ratio"] == pytest.approx(rates[name] / rates[best])


def test_in_fp32_all_tokens_agree(result: list[dict[str, Any]]) -> None:
    fp32, bf16 = result
    if not fp32["near_ties"]:
        assert {contender["agreement"] for contender in fp32["contenders"]} == {1}
    assert bf16["near_ties"] == []
    assert all(0 < contender["agreement"] <= 1 for contender in bf16["contenders"])
    assert all(contender["peak_memory_bytes"] is None for contender in fp32["contenders"])
    assert fp32["step_times_ms"].keys() == {"draft", "target"}


def test_the_tables_fit_80_columns(
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(arguments(target_folder, prompts_file, "--repeats", "1", "--per-task", "1")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("transformers", *POLICIES):
        assert sum(line.split()[:1] == [name] for line in lines) == 3, name


def test_the_names_of_other_systems_are_those_that_there_are() -> None:
    assert tuple(others.SYSTEMS) == command.SYSTEMS


def run_into(path: Path, target: Path, prompts: Path, *more: str) -> int:
    few = ("--policies", "none", "fixed:2", "--per-task", "1", "--repeats", "2", "--precision", "fp32")
    return main(arguments(target, prompts, *few, "--output", str(path), *more))


def test_results_are_kept_as_they_come_and_stay_when_another_precision_is_added(
    target_folder: Path, prompts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "live.json"
    assert run_into(path, target_folder, prompts_file, "--contenders", "transformers") == 0
    (fp32,) = read_rows(path, "bench")
    assert {contender["name"] for contender in fp32["contenders"]} == {"transformers", "none", "fixed:2"}
    assert fp32["left_out"] == {}
    capsys.readouterr()
    more = ("--precision", "bf16", "--seconds", "0", "--json", "--contenders")
    assert run_into(path, target_folder, prompts_file, *more) == 0
    rows = read_rows(path, "bench")
    assert rows[0] == fp32
    assert rows[1:] == json.loads(capsys.readouterr().out)["rows"]
    for contender in rows[1]["contenders"]:
        assert contender["repeats"] == 0
        assert all(len(run["seconds"]) == 1 for run in contender["runs"])
        assert contender["limit_tokens_per_second"] > 0
    assert {contender["name"] for contender in rows[1]["contenders"]} == {"none", "fixed:2"}


@pytest.mark.parametrize(("runs", "prompts"), [(7, 2), (10, 3), (19, 3), (25, 3)])
def test_an_ended_run_keeps_what_it_has(
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: int,
    prompts: int,
) -> None:
    """Three contenders, three prompts: 9 runs check, 9 are a round; one trial comes before."""
    path, count = tmp_path / "live.json", [0]
    own = Clock.time

    def ended_after_some(self: Clock, *given: Any) -> Any:
        count[0] += 1
        if count[0] > runs + 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # until the signal is there
        return own(self, *given)

    monkeypatch.setattr(Clock, "time", ended_after_some)
    before = signal.getsignal(signal.SIGTERM)
    assert run_into(path, target_folder, prompts_file, "--contenders", "transformers") == 130
    assert signal.getsignal(signal.SIGTERM) is before
    (row,) = read_rows(path, "bench")
    assert not row["complete"]
    for contender in row["contenders"]:
        assert len(contender["runs"]) == prompts
        assert all(run["seconds"] for run in contender["runs"])
        assert contender["scores"]["overall"]["tokens_per_second"] > 0
    # A later run that is not ended takes its place.
    monkeypatch.setattr(Clock, "time", own)
    assert run_into(path, target_folder, prompts_file, "--contenders", "transformers") == 0
    (row,) = read_rows(path, "bench")
    assert row["complete"]


@pytest.mark.parametrize(
    "more",
    [
        ["--policies", "none", "magic"],
        ["--policies", "fixed:x"],
        ["--policies", "svip:2"],
        ["--policies"],
        ["--precision", "int3"],
        ["--per-task", "0"],
        ["--repeats", "0"],
        ["--max-new-tokens", "none"],
        ["--contenders", "magic"],
        ["--seconds", "-1"],
        ["--output", "no/such/folder/rows.json"],
        ["--prompts", "no/such/file.jsonl"],
        ["--draft", "early-exit:x"],
        ["--unknown"],
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    target_folder: Path,
    prompts_file: Path,
    more: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_up, "load_target", None)
    try:
        code = main(arguments(target_folder, prompts_file, *more))
    except SystemExit as end:  # argparse leaves this way
        code = int(end.code or 0)
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len([line for line in captured.err.splitlines() if line and not line.startswith((" ", "usage"))]) == 1


def test_texts_that_do_not_fit_end_with_one_line(
    target_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_up, "other_systems", None)  # refused before anything runs
    more = ("--max-new-tokens", "600", "--policies", "none", "--per-task", "1", "--precision", "fp32")
    assert main(arguments(target_folder, prompts_file, *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "context of 512" in next(line for line in captured.err.splitlines() if line.startswith("error:"))


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert environment.commit(tmp_path) is None

    def git(*command: str) -> str:
        own = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
        return subprocess.run([*own, *command], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    assert environment.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert environment.commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
