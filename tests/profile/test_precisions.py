"""The precisions command: rows kept as they come, one precision a call or several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.pair import target as pair_target
from runtime.rows import read_rows


def arguments(target: Path, *more: str) -> list[str]:
    pair = ["--target", str(target), "--draft", "early-exit:2", "--device", "cpu"]
    return ["precisions", *pair, "--max-new-tokens", "2", "--json", *more]


def test_rows_are_kept_as_they_come_and_added_to(
    target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "precisions.json"
    assert main(arguments(target_folder, "--precision", "bf16", "--output", str(path))) == 0
    (bf16,) = read_rows(path, "precisions")
    assert json.loads(capsys.readouterr().out)["rows"] == [bf16]
    assert (bf16["precision"], bf16["draft"], bf16["target"]) == ("bf16", "early-exit:2", str(target_folder))
    assert bf16["device"]
    assert bf16["threads"] >= 1
    assert bf16["target_ms"]["eager17"] > 0

    own = pair_target.load_target

    def interrupted(name: str, precision: str, device: str) -> pair_target.Target:
        if precision == "nf4":
            raise KeyboardInterrupt
        return own(name, precision, device)

    monkeypatch.setattr(pair_target, "load_target", interrupted)
    assert main(arguments(target_folder, "--precision", "fp32", "nf4", "--output", str(path))) == 130
    assert read_rows(path, "precisions")[0] == bf16
    assert [row["precision"] for row in read_rows(path, "precisions")] == ["bf16", "fp32"]


def test_a_file_of_something_else_is_refused_before_a_model_is_loaded(
    target_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pair_target, "load_target", None)
    (tmp_path / "thesis.json").write_text("{}")
    assert main(arguments(target_folder, "--precision", "fp32", "--output", str(tmp_path / "thesis.json"))) == 2
    assert "holds something else than rows" in capsys.readouterr().err
    assert (tmp_path / "thesis.json").read_text() == "{}"


@pytest.mark.parametrize("form", ["--json", "table"])
def test_what_is_finished_is_printed_when_interrupted(
    form: str, target_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = pair_target.load_target

    def interrupted(name: str, precision: str, device: str) -> pair_target.Target:
        if precision == "fp16":
            raise KeyboardInterrupt
        return own(name, precision, device)

    monkeypatch.setattr(pair_target, "load_target", interrupted)
    given = [word for word in arguments(target_folder, "--precision", "fp32", "fp16") if word != "--json"]
    assert main([*given, "--json"] if form == "--json" else given) == 130
    output = capsys.readouterr().out
    if form == "--json":
        assert [row["precision"] for row in json.loads(output)["rows"]] == ["fp32"]
    else:
        assert "perplexity" in output
        assert "fp16" not in output


def test_the_table_of_every_precision_fits_80_columns(
    target_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = [word for word in arguments(target_folder) if word != "--json"]
    assert main([*given, "--precision", "fp32", "bf16", "fp16", "int8", "nf4"]) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    for word in ("fp32", "nf4", "weights, MB", "draft, ms", "q=1, ms", "q=17, ms", "agreement", "perplexity"):
        assert word in output
    assert max(map(len, output.splitlines())) <= 80
