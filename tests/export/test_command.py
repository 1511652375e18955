"""`python -m export` as a user meets it: output, options, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from export.__main__ import main
from export.predictor.contents import FILES, Figures
from export.predictor.parity import Parity
from export.predictor.report import print_tables, summary
from runtime.errors import SpeckvError
from tests.export.conftest import OLD_PICKLE, ROOT, contents, run


def test_json_is_all_that_is_printed(records_csv: Path, exported: Path, tmp_path: Path, capsys) -> None:
    assert run("--records", records_csv, "--output", tmp_path / "package", "--json") == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.err == ""
    assert summary["output"] == str(tmp_path / "package")
    assert {entry["name"]: entry["size"] for entry in summary["files"]} == {
        name: len(data) for name, data in contents(exported).items()
    }
    assert summary["parity"]["largest_difference"] <= summary["parity"]["tolerance"] == 1e-6
    assert summary["parity"]["rows"] >= 100_000
    assert summary["parity"]["gamma_ties"] == 0
    assert summary["refit"]["performance"] == json.loads((exported / "config.json").read_text())["performance"]


def test_tables_show_the_refit_the_files_and_the_parity(records_csv: Path, tmp_path: Path, capsys) -> None:
    assert run("--records", records_csv, "--output", tmp_path / "package") == 0
    output = capsys.readouterr().out
    performance = json.loads((tmp_path / "package" / "config.json").read_text())["performance"]
    assert f"mean squared error {performance['held_out']['mse']:.5f}" in output
    assert "95 % interval" in output
    assert "10,000 paired resamples" in output
    assert all(name in output for name in (*FILES, "SpecKV-accurate"))
    assert "published loop's on every row but 0 exact ties" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown"], "unrecognized arguments: --unknown"),
        (
            ["--out", "x"],
            "unrecognized arguments: --out",
        ),  # no abbreviations: a later option could change their meaning
        (["drafters"], "unrecognized arguments: drafters"),
        (["--opset", "seventeen"], "invalid int value"),
        (["--opset", "12"], "opset 12 is not supported: choose 13 to 21"),
        (["--opset", "22"], "opset 22 is not supported"),
        (["--records", "a.csv", "--pickle", "b.pkl"], "not allowed with argument"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert run(*arguments, "--output", tmp_path / "package") == 2
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_help_shows_examples_and_the_drafter(capsys) -> None:
    assert run("--help") == 0
    output = capsys.readouterr().out
    assert "python -m export --records steps.csv" in output
    assert "python -m export drafter" in output


def test_drafter_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    seen: list[list[str]] = []
    stand_in = types.ModuleType("export.drafter.command")
    stand_in.main = lambda argv: seen.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "export.drafter.command", stand_in)
    assert main(["drafter", "--steps", "3"]) == 7
    assert seen == [["--steps", "3"]]

    def fail(_: list[str]) -> int:
        raise SpeckvError("no such target")

    stand_in.main = fail  # type: ignore[attr-defined]
    assert main(["drafter"]) == 2
    assert capsys.readouterr().err == "error: no such target\n"


@pytest.mark.parametrize(
    ("arguments", "module", "extra"), [([], "predictor", "export"), (["drafter"], "drafter", "loop")]
)
def test_a_missing_dependency_names_its_extra(
    arguments: list[str], module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, f"export.{module}.command", None)  # importing it raises ModuleNotFoundError
    assert main(arguments) == 2
    assert f"pip install 'speckv[{extra}]'" in capsys.readouterr().err


def test_predictor_export_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from export.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    arguments = ["--pickle", str(OLD_PICKLE), "--output", str(tmp_path / "package"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_output_that_cannot_be_written_has_its_own_exit_code(form: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "--pickle", OLD_PICKLE, "--output", tmp_path / "package", *form]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        closed = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (141, "")
    if not Path("/dev/full").exists():
        return
    with Path("/dev/full").open("wb") as disk:
        full = subprocess.run(command, cwd=ROOT, stdout=disk, stderr=subprocess.PIPE, text=True, check=False)
    message = "error: cannot write to standard output: No space left on device\n"
    assert (full.returncode, full.stderr) == (74, message)
    assert set(contents(tmp_path / "package")) == set(FILES)


def test_a_folder_of_any_name_is_shown_as_it_is(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "o[/b]"
    assert run("--pickle", OLD_PICKLE, "--output", folder) == 0
    assert str(folder) in "".join(line.strip() for line in capsys.readouterr().out.splitlines())


def test_a_loss_is_printed_with_one_sign(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    figures = Figures(config["training"], config["performance"] | {"speckv_over_fixed_4_percent": -3.0})
    console = Console(file=io.StringIO(), width=120)
    parity = Parity("r", 1, 0.0, 0.0, 0.0, 0.0, gamma_ties=0)
    print_tables(console, summary(exported, {}, parity, figures), known=True)
    assert "over fixed-4: -3.00 %" in console.file.getvalue()  # type: ignore[attr-defined]


def test_module_runs_from_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "--pickle", str(OLD_PICKLE), "--output", "mine", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["output"] == str(tmp_path / "mine")
    with np.load(tmp_path / "mine" / "speckv_mlp16_weights.npz") as arrays:
        assert arrays["W1"].shape == (6, 16)
