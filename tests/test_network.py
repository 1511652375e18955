"""No command asks for a network socket unless a Hub repository is named: the kernel ends the process that does."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.no_network import SOCKET

GOLDEN = Path(__file__).resolve().parent / "golden"
PROFILE, TARGET, DRAFTER = GOLDEN / "profile-1", GOLDEN / "target", GOLDEN / "drafter-1"
PAIR = ["--target", str(TARGET), "--draft", str(DRAFTER), "--device", "cpu"]
REPLAYED = ["--traces", str(PROFILE / "fp32.npz"), "--step-times", str(PROFILE / "step_times_ms.json")]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SOCKET, reason="needs seccomp of Linux on x86-64 or arm64"
)

DEFAULT = ["--max-new-tokens", "2", "--device", "cpu"]
FEW = ["--max-new-tokens", "4", "--prompts", "P"]
COMMANDS = {
    "select": ["runtime", "select", "--signals", "0.9", "0.82", "1.7", "0.55"],
    "latency": ["runtime", "latency", "--rounds", "3"],
    "generate": ["runtime", "generate", "w5 w6", *PAIR, "--max-new-tokens", "4"],
    "the default pair": ["runtime", "generate", "Hello", *DEFAULT],
    "int8": ["runtime", "generate", "w5 w6", *PAIR, "--max-new-tokens", "4", "--target-precision", "int8"],
    "nf4": ["runtime", "generate", "Hello", *DEFAULT, "--target-precision", "nf4"],  # whose rows 4-bit kernels divide
    "many": ["runtime", "generate", *PAIR, *FEW, "--rows", "2", "--json"],
    "profile": ["runtime", "profile", *PAIR, *FEW, "--precision", "fp32", "--output", "O"],
    "precisions": ["runtime", "precisions", *PAIR, "--precision", "fp32", "--max-new-tokens", "2"],
    "bench": ["runtime", "bench", *PAIR, *FEW, "--policies", "none", "fixed:2", "--repeats", "1"],
    "throughput": ["runtime", "throughput", *PAIR, *FEW, "--rows", "1", "2", "--repeats", "1", "--policies", "fixed:2"],
    "replay": ["runtime", "replay", *REPLAYED, "--policies", "fixed:2", "adaptive", "speckv"],
    "report": ["runtime", "report", *REPLAYED, "--policies", "fixed:2", "--output", "O"],
    "export": ["export", "--output", "O"],
    "plan": ["integrations.vllm", "plan", "--profile", str(PROFILE), "--draft", str(TARGET)],
    "export-draft": ["integrations.vllm", "export-draft", *PAIR[:4], "--output", "O"],
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module where no socket may be opened; P is a file of prompts, O a folder to write."""
    (folder / "prompts.jsonl").write_text('{"task": "code", "prompt": "w5 w6"}\n', encoding="utf-8")
    places = {"P": str(folder / "prompts.jsonl"), "O": str(folder / "output")}
    command = [sys.executable, "-m", "tests.no_network", *(places.get(word, word) for word in arguments)]
    # The cache of converted models is the user's: converting the default target takes 20 seconds.
    online = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {**online, "HF_HOME": str(folder / "hub")}
    return subprocess.run(command, cwd=GOLDEN.parents[1], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_opens_no_socket(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, *COMMANDS[name])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", ["--target", "--draft"])
def test_a_hub_repository_is_asked_for_when_it_is_named(option: str, tmp_path: Path) -> None:
    done = run(
        tmp_path, "runtime", "generate", "w5", *PAIR, "--max-new-tokens", "4", option, "nobody/nothing-of-this-name"
    )
    assert done.returncode == -signal.SIGSYS, done.stderr


def test_a_library_in_c_is_caught_too(tmp_path: Path) -> None:
    """getaddrinfo asks the name server by a socket that Python never sees."""
    (tmp_path / "asks.py").write_text("import socket\nsocket.getaddrinfo('localhost.invalid', 80)\n")
    command = [sys.executable, "-m", "tests.no_network", "asks"]
    paths = os.pathsep.join([str(tmp_path), str(GOLDEN.parents[1])])
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert done.returncode == -signal.SIGSYS


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_code_is_not_fetched_from_repositories_that_nobody_named(precision: str, tmp_path: Path) -> None:
    """bitsandbytes does, on processors with AVX512-BF16, where `kernels` is installed."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    open('fetched', 'w')\n")
    script = "import sys; from runtime.pair.target import load_target; load_target(sys.argv[1], sys.argv[2], 'cpu')"
    paths = os.pathsep.join([str(tmp_path), str(GOLDEN.parents[1])])
    command = [sys.executable, "-c", script, str(TARGET), precision]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "fetched").exists()
    assert "kernels" not in done.stderr
