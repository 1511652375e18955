"""The README does what it says: its code blocks run, its tables are those that the results make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.readme import README, ROOT, fill
from runtime.errors import SpeckvError

TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SET_UP = "make run"


@pytest.fixture(autouse=True)
def no_leftovers() -> object:
    yield
    for name in ("my-predictor", "profile", "report"):
        shutil.rmtree(ROOT / "build" / name, ignore_errors=True)


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=[code.split("\n")[0][:50] for _, code in BLOCKS])
def test_code_blocks_run(language: str, code: str) -> None:
    if code.startswith(SET_UP):
        pytest.skip("the set-up itself, which runs this test")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if "runtime profile" in code:
        # The default prompts take minutes on a CPU; two of them run the same code.
        first = (ROOT / "runtime" / "data" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[:2]
        (ROOT / "build").mkdir(exist_ok=True)
        (ROOT / "build" / "prompts.jsonl").write_text("\n".join(first), encoding="utf-8")
        command[-1] = code.replace("--output", "--prompts build/prompts.jsonl --output", 1)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_there_are_blocks_of_both_kinds() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


def test_tables_are_those_that_the_results_make() -> None:
    assert fill(TEXT) == TEXT, "run `python -m export readme`"
    assert len(re.findall(r"<!-- made by", TEXT)) >= 4


def test_a_table_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(SpeckvError, match="nonsense"):
        fill("<!-- made by `python -m export readme`: nonsense -->\n<!-- end -->")


def test_every_command_is_in_the_map() -> None:
    """CONTRIBUTING's map names every folder of the packages."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package in ("runtime", "export"):
        for folder in (ROOT / package).iterdir():
            if (folder / "__init__.py").is_file():
                assert f"{package}/{folder.name}" in text


def test_a_kept_replay_becomes_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "<!-- made by `python -m export readme`: replay -->\n<!-- end -->"
    monkeypatch.setattr("export.readme.RESULTS", tmp_path)
    assert "|" not in fill(part)
    policies = [
        {"name": name, "tokens_per_second": {"value": rate, "low": 90.2, "high": 219.8}, "ratio": {"value": rate / 100}}
        for name, rate in (("fixed:3", 100.0), ("oracle", 150.0))
    ]
    replays = [
        {"precision": "fp16", "prompts": 7, "best_fixed": {"overall": 3}, "policies": policies},
        {"precision": "nf4", "prompts": 8, "best_fixed": {"overall": 2}, "policies": policies[:1]},
    ]
    content = {"backend": "graph", "processor": "abacus", "replays": replays}
    (tmp_path / "replay.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SpeckvError, match=r"rates\.svg"):
        fill(part)
    (tmp_path / "rates.svg").touch()
    text = fill(part)
    assert "![Tokens per second of every policy](results/rates.svg)" in text
    assert "| policy | fp16, tok/s | fp16, ratio | nf4, tok/s | nf4, ratio |" in text
    oracle, fixed = text.splitlines()[-3:-1]
    assert oracle == "| oracle | 150.0 (90.2 – 219.8) | 1.500 | – | – |"
    assert fixed == "| fixed:3 | 100.0 (90.2 – 219.8) | 1.000 | 100.0 (90.2 – 219.8) | 1.000 |"
