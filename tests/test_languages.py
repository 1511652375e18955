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
FETCHED = ROOT / "build"


def program(language: str) -> str:
    found = re.search(r"```\w+\n(.*?)```", SECTIONS[language], re.DOTALL)
    assert found, language
    return found[1]


def assert_is_the_decision(output: str) -> None:
    right = GammaSelector().select((0.9, 0.82, 1.7, 0.55), "nf4")
    word, gamma, *tokens = re.sub(r"[\[\],]", " ", output).split()
    assert (word, int(gamma)) == ("gamma", right.gamma)
    assert [float(value) for value in tokens] == pytest.approx(right.expected_tokens.tolist(), rel=1e-5)
    assert str(right.gamma) in PAGE.split("prints its gamma, ")[1][:2]


def needs(*tools: str, file: Path | None = None) -> None:
    """Skip where a tool, or what `make test-languages` fetches, is not there."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if file is not None and not file.is_file():
        missing.append(f"{file.name} (`make test-languages` fetches it where it can)")
    if missing:
        pytest.skip(f"no {', no '.join(missing)}")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The Python wheel's library in a folder of its own, under the names that linkers look for."""
    found = next(Path(import_onnxruntime().__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if found is None:
        pytest.skip("onnxruntime's wheel for this platform has no shared library to link with")
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found)
    return folder


def assert_decides(command: list[object], folder: Path, **variables: str) -> None:
    """The program gives the decision, and leaves no telemetry in the user's folders."""
    home = folder / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **variables}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_is_the_decision(done.stdout)
    assert list(home.iterdir()) == []


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


def test_cpp(tmp_path: Path, library: Path) -> None:
    """Headers come from `make test-languages`, ORT_INCLUDE or the system."""
    places = [os.environ.get("ORT_INCLUDE", ""), FETCHED / "onnxruntime/include", "/usr/include/onnxruntime"]
    headers = [Path(place) / HEADER for place in places if place]
    header = next((path for path in headers if path.is_file()), headers[-1])
    needs("g++", file=header)
    (tmp_path / "decide.cpp").write_text(program("C++"), encoding="utf-8")
    build = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{header.parent}", "decide.cpp"]
    link = [f"-L{library}", "-lonnxruntime", f"-Wl,-rpath,{library}", "-o", "decide"]
    subprocess.run([*build, *link], cwd=tmp_path, check=True)
    assert_decides([tmp_path / "decide", GRAPH], tmp_path)


def test_rust(tmp_path: Path, library: Path) -> None:
    needs("cargo", file=FETCHED / "rust/Cargo.lock")
    crate = shutil.copytree(FETCHED / "rust", tmp_path / "crate")
    (crate / "src/main.rs").write_text(program("Rust"), encoding="utf-8")
    linked = {**os.environ, "ORT_LIB_LOCATION": str(library), "ORT_PREFER_DYNAMIC_LINK": "1", "RUSTFLAGS": "-Dwarnings"}
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--offline"], cwd=crate, env=linked, check=True)
    found = {"LD_LIBRARY_PATH": str(library), "ORT_DISABLE_TELEMETRY": "1"}
    assert_decides([crate / "target/debug/decide", GRAPH], tmp_path, **found)


def test_go(tmp_path: Path, library: Path) -> None:
    needs("go", "gcc", file=FETCHED / "go/go.sum")
    module = shutil.copytree(FETCHED / "go", tmp_path / "module")
    (module / "main.go").write_text(program("Go"), encoding="utf-8")
    for step in (["vet"], ["build", "-o", "decide"]):
        subprocess.run(["go", *step], cwd=module, check=True)
    assert_decides([module / "decide", GRAPH, library / "libonnxruntime.so"], tmp_path)


def test_java(tmp_path: Path) -> None:
    jar = FETCHED / "onnxruntime/onnxruntime.jar"
    needs("javac", "java", file=jar)
    (tmp_path / "Decide.java").write_text(program("Java"), encoding="utf-8")
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-cp", jar, "Decide.java"], cwd=tmp_path, check=True)
    found = {"ORT_DISABLE_TELEMETRY": "1"}
    assert_decides(["java", "-cp", f"{jar}{os.pathsep}{tmp_path}", "Decide", GRAPH], tmp_path, **found)
