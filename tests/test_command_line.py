"""The command line as a user meets it: output, exit codes, one-line errors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from runtime.__main__ import MEMORY_ADVICE, main
from runtime.decision import latency

SIGNALS = ["--signals", "0.9", "0.82", "1.7", "0.55"]


def run(arguments: Sequence[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse leaves this way
        return int(end.code or 0)


def test_select_prints_the_decision_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", *SIGNALS, "--compression", "nf4", "--json"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["gamma"] in decision["candidates"] == [2, 4, 6, 8]
    tokens = decision["expected_tokens"]
    assert decision["gamma"] == decision["candidates"][tokens.index(max(tokens))]


def test_select_prints_a_table_with_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", *SIGNALS, "--candidates", "3", "5", "--step-cost", "1", "100"]) == 0
    output = capsys.readouterr().out
    assert "gamma = 3" in output
    assert next(line for line in output.splitlines() if "chosen" in line).split()[1] == "3"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["select"],
        ["select", *SIGNALS, "--unknown"],
        ["select", *SIGNALS, "--comp", "nf4"],  # no abbreviations: a later option could change their meaning
        ["select", "--signals", "0.9", "0.8", "1.7"],
        ["select", "--signals", "nan", "0.8", "1.7", "0.5"],
        ["select", "--signals", "0.9", "1.8", "1.7", "0.5"],
        ["select", *SIGNALS, "--compression", "int4"],
        ["select", *SIGNALS, "--candidates", "-1"],
        ["select", *SIGNALS, "--candidates", "2", "--step-cost", "1", "2"],
        ["select", *SIGNALS, "--provider", "cuda"],
        ["latency", "--rounds", "0"],
        ["generate"],
        ["generate", "  "],
        ["generate", "hello", "--policy", "magic"],
        ["generate", "hello", "--policy", "fixed:-1"],
        ["generate", "hello", "--max-new-tokens", "0"],
        ["generate", "hello", "--temperature", "-1"],
        ["generate", "hello", "--top-p", "0"],
        ["generate", "hello", "--top-k", "5"],
        ["generate", "hello", "--seed", str(2**64)],
        ["generate", "\udcff bad"],
        ["generate", "hello", "--target", ""],
        ["generate", "hello", "--draft", ""],
        ["generate", "hello", "--rows", "2"],
        ["generate", "hello", "--prompts", "no/such/file.jsonl"],
        ["generate", "--prompts", "no/such/file.jsonl"],
        ["generate", "--prompts", "no/such/file.jsonl", "--rows", "0"],
        ["throughput", "--rows", "0"],
        ["throughput", "--rows", "99999999999999999999"],
        ["throughput", "--texts", "99999999999"],
        ["throughput", "--rows", str(2**31 - 1)],
        ["latency", "--rounds", str(2**31)],
        ["select", *SIGNALS, "--candidates", "9" * 5000],
        ["generate", "hello", "--temperature", "1e-300"],
        ["generate", "hello", "--policy", "fixed:99999999999999999999"],
        ["generate", "hello", "--policy", "fixed:" + "9" * 5000],
        ["generate", "hello", "--seed", "7"],
        ["generate", "hello", "--device", "cpu", "--device-map", "auto"],
        ["throughput", "--policies", "magic"],
        ["throughput", "--precision", "int3"],
        ["throughput", "--prompts", "no/such/file.jsonl"],
        ["generate", "hello", "--draft", "early-exit:x"],
        ["generate", "hello", "--target", "some/model"],
        ["generate", "hello", "--tensor-parallel"],
        ["generate", "hello", "--tensor-parallel", "--device-map", "auto"],
        ["generate", "hello", "--target-precision", "int3"],
        ["generate", "hello", "--target", "no/such/folder", "--draft", "early-exit"],
        ["generate", "hello", "--target", "tests", "--draft", "early-exit"],
    ],
)
def test_bad_input_exits_2_with_one_line_and_no_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line and not line.startswith((" ", "usage"))]
    assert len(lines) == 1, captured.err


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["generate", "hello"]) == 2
    assert "'torch': pip install 'speckv[loop]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        *("select", "latency", "generate", "bench", "throughput"),
        *("profile", "precisions", "roofline", "replay", "report"),
    ],
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"python -m runtime {command}" in capsys.readouterr().out


def test_latency_times_every_way_of_the_same_decision(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["latency", "--rounds", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [timing["name"] for timing in result["decision_us"]]
    assert names[:5] == [
        "sklearn, 4 x predict",
        "numpy weights",
        "onnxruntime, 4 calls",
        "onnxruntime, 1 batched call",
        "decision graph",
    ]
    assert all(0 < timing["low"] <= timing["median"] <= timing["high"] for timing in result["decision_us"])
    assert result["process"]["peak_megabytes"] > 0


def test_latency_refuses_ways_that_disagree(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_numpy", lambda _: lambda _: 3)
    assert run(["latency", "--rounds", "3"]) == 2
    assert "numpy weights chose 3" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["/dev/full", "a closed pipe"])
def test_output_that_cannot_be_written_ends_without_a_traceback(place: str) -> None:
    command = f"{sys.executable} -m runtime select {' '.join(SIGNALS)}"
    command += " > /dev/full" if place == "/dev/full" else " | true; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    # A reader that left is no error of the user's: 141 as the shell has it, or 1 where rich notices first.
    assert done.returncode in ((2,) if place == "/dev/full" else (0, 1, 141))
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_machine_without_memory_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("runtime.pair.target.load_target", fail)
    assert run(["precisions", "--precision", "fp32", "--device", "cpu"]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # the progress bar's are before it
    assert line.startswith("error: ")
    assert "memory" in line
    assert line.endswith(MEMORY_ADVICE)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("runtime.pair.target.load_target", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        run(["precisions", "--precision", "fp32", "--device", "cpu"])


@pytest.mark.parametrize(("signals", "mixed"), [("3 0.5 1 0.4", "entropy"), ("0.5 0.4 1 0.9", "confidence")])
def test_signals_in_another_order_are_refused(signals: str, mixed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", "--signals", *signals.split(), "--compression", "nf4"]) == 2
    assert mixed in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_stream_that_is_missing_is_no_error(form: list[str], stream: str) -> None:
    command = f"{sys.executable} -m runtime select {' '.join(SIGNALS + form)} {stream}>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (stream == "2")


def test_an_error_without_standard_error_does_not_go_to_standard_output() -> None:
    command = f"{sys.executable} -m runtime select {' '.join(SIGNALS)} --candidates 99999999 2>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


INTERRUPTED_IMPORT = """
import runpy, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "{module}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = {arguments}
runpy.run_module("{program}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("program", "module", "arguments"),
    [
        ("runtime", "numpy", ["select", *SIGNALS]),
        ("runtime", "runtime.commands.bench", ["select", *SIGNALS]),
        ("runtime", "torch", ["precisions"]),
        ("export", "numpy", []),
        ("export", "export.readme", ["readme"]),
        ("export", "torch", ["drafter"]),
    ],
)
def test_an_interrupt_during_the_imports_is_one_word(program: str, module: str, arguments: list[str]) -> None:
    code = INTERRUPTED_IMPORT.format(program=program, module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_the_system_refuses_is_said_with_its_file(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "their\nfolder/x")

    monkeypatch.setattr("runtime.pair.target.load_target", fail)
    assert run(["precisions", "--precision", "fp32", "--device", "cpu"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    advice = "free space, or choose another place" if number == errno.ENOSPC else "choose another place"
    assert line == f"error: their\\nfolder/x: {os.strerror(number)}: {advice}"
