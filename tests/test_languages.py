"""integrations/LANGUAGES.md: its contract is the graph's, and the programs that it says are run, are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import GammaSelector
from runtime.artifacts import package_folder
from runtime.contract import DECISION_FILE
from runtime.decision.session import import_onnxruntime, open_session

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "integrations" / "LANGUAGES.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
GRAPH = package_folder() / DECISION_FILE
HEADER = "onnxruntime_cxx_api.h"


def program(language: str) -> str:
    found = re.search(r"```\w+\n(.*?)```", SECTIONS[language], re.DOTALL)
    assert found, language
    return found[1]


def assert_is_the_decision(output: str) -> None:
    right = GammaSelector().select((0.9, 0.82, 1.7, 0.55), "nf4")
    word, gamma, *tokens = output.split()
    assert (word, int(gamma)) == ("gamma", right.gamma)
    assert [float(value) for value in tokens] == pytest.approx(right.expected_tokens.tolist(), rel=1e-5)
    assert str(right.gamma) in PAGE.split("prints its gamma, ")[1][:2]


def test_the_contract_is_the_graphs() -> None:
    session: Any = open_session(GRAPH, "cpu")
    types = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for value in (*session.get_inputs(), *session.get_outputs()):
        shape = ", ".join(str(size) for size in value.shape)
        assert f"| `{value.name}` | {types[value.type]} [{shape}] |" in SECTIONS["Contract"]


def test_every_program_says_whether_it_is_run() -> None:
    languages = {"Python", "JavaScript and TypeScript", "C++", "Rust", "Go", "Java", "C#"}
    assert set(SECTIONS) == {"Contract", *languages}
    for language in languages:
        assert re.match(r"\n(Run by|Compiled and run by|Not run)", SECTIONS[language]), language


def test_python() -> None:
    done = subprocess.run(
        [sys.executable, "-c", program("Python")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert_is_the_decision(done.stdout)


def test_cpp(tmp_path: Path) -> None:
    """The library is that of the Python wheel; headers come from `make test-languages`, ORT_INCLUDE or the system."""
    places = [os.environ.get("ORT_INCLUDE", ""), ROOT / "build/onnxruntime/include", "/usr/include/onnxruntime"]
    include = next((Path(place) for place in places if place and (Path(place) / HEADER).is_file()), None)
    library = next(Path(import_onnxruntime().__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if include is None or library is None or shutil.which("g++") is None:
        pytest.skip(f"C++ needs g++, {HEADER} (`make test-languages` fetches it) and onnxruntime's Linux wheel")
    (tmp_path / "decide.cpp").write_text(program("C++"), encoding="utf-8")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    build = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{include}", "decide.cpp", "-o", "decide"]
    subprocess.run([*build, "-L.", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}"], cwd=tmp_path, check=True)
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [str(tmp_path / "decide"), str(GRAPH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert_is_the_decision(done.stdout)
    assert list(home.iterdir()) == []  # no telemetry
