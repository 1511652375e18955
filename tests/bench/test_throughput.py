"""Throughput against rows: its JSON, its table, and what stays of an interrupted run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from runtime.__main__ import main
from runtime.bench import throughput


def arguments(target: Path, prompts: Path, *more: str) -> list[str]:
    pair = ["--target", str(target), "--draft", "early-exit:2", "--device", "cpu", "--prompts", str(prompts)]
    few = ["--rows", "2", "1", "2", "--max-new-tokens", "5", "--policies", "none", "fixed:2", "--texts", "4"]
    return ["throughput", *pair, *few, *more]


def test_the_figures_follow_from_the_runs(
    target_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(target_folder, prompts_file, "--json", "--repeats", "3")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["prompts"], result["max_new_tokens"], result["repeats"]) == ([0, 1, 2, 3], 5, 3)
    found = {(m["rows"], m["policy"]): m for m in result["measurements"]}
    assert list(found) == [(1, "none"), (1, "fixed:2"), (2, "none"), (2, "fixed:2")]
    for (_, policy), measurement in found.items():
        assert measurement["tokens"] == 20
        assert len(measurement["seconds"]) == 3
        assert measurement["tokens_per_second"] == pytest.approx(20 / median(measurement["seconds"]))
        first = found[1, policy]["tokens_per_second"]
        assert measurement["ratio"] == pytest.approx(measurement["tokens_per_second"] / first)
        assert measurement["agreement"] == 1
        assert measurement["peak_memory_bytes"] is None
        assert measurement["loop"].startswith("plain")
    assert (found[1, "none"]["tokens_per_step"], found[1, "none"]["mean_gamma"]) == (1, 0)
    assert found[1, "fixed:2"]["mean_gamma"] > 0


def test_more_texts_than_prompts(target_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"task": "chat", "prompt": "w3"}\n{"task": "chat", "prompt": "w4"}', encoding="utf-8")
    assert main([*arguments(target_folder, prompts, "--json", "--repeats", "1"), "--texts", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == [0, 1, 0]


@pytest.mark.parametrize("form", ["--json", "table"])
def test_an_interrupted_run_prints_and_keeps_what_is_finished(
    target_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    measure, kept = throughput.measure, tmp_path / "kept.json"

    def interrupted(*given: object) -> Iterator[throughput.Measurement]:
        measurements = measure(*given)  # type: ignore[arg-type]
        yield next(measurements)
        yield next(measurements)
        raise KeyboardInterrupt

    monkeypatch.setattr(throughput, "measure", interrupted)
    more = ["--json"] if form == "--json" else []
    given = arguments(target_folder, prompts_file, "--repeats", "1", "--output", str(kept), *more)
    assert main(given) == 130
    rows = json.loads(kept.read_text())["rows"]
    assert [(row["rows"], row["policy"], row["precision"]) for row in rows] == [
        (1, "none", "fp32"),
        (1, "fixed:2", "fp32"),
    ]
    output = capsys.readouterr().out
    if form == "--json":
        assert [m["policy"] for m in json.loads(output)["measurements"]] == ["none", "fixed:2"]
    else:
        assert "(1.00)" in output
        assert max(map(len, output.splitlines())) <= 80


def test_tokens_agree_up_to_the_first_that_differs() -> None:
    assert throughput._agreement([[1, 2, 3], [4]], [[1, 2, 3], [4]]) == 1
    assert throughput._agreement([[1, 9, 3], [4]], [[1, 2, 3], [4]]) == 0.5
    assert throughput._agreement([[1], [4, 5]], [[1, 2, 3], [4]]) == 0.5


def test_texts_that_do_not_fit_end_with_one_line_and_no_result(
    target_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(target_folder, prompts_file, "--json"), "--max-new-tokens", "600"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "context of 512" in next(line for line in captured.err.splitlines() if line.startswith("error:"))


def test_the_table_of_many_policies_fits_80_columns(
    target_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    policies = ["none", *(f"fixed:{length}" for length in range(1, 6)), "confidence", "heuristic", "moving-average"]
    given = arguments(target_folder, prompts_file, "--repeats", "1")
    assert main([*given, "--policies", *policies]) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    assert all(output.count(f" {policy} ") == 2 for policy in policies)
    assert output.count("100.0%") == 2 * len(policies)
