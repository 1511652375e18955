"""The profiler killed at random moments, again and again: no finished prompt is lost, and the end is the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.__main__ import main
from tests.counts import write_counts
from tests.load.sizes import COMMAND, KILLS, SUITE
from tests.profile.test_profile import DETERMINISTIC, arguments

PROMPTS = 48
"""Three parts."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")


def _run(given: list[str]) -> None:
    sys.exit(main(given))


def _server() -> Any:
    """Processes that begin with torch loaded, so that a kill hits the work and seldom an import."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runtime.profile.profile", "runtime.commands.profile", "tests.load.test_killed"])
    return context


def whole_files(folder: Path) -> dict[str, bytes]:
    """What there is under its final name, by path, but for the step times, which are measured."""
    names = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in names if path.name != "step_times_ms.json"}


def test_killed_at_random_moments(target_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [f'{{"task": "chat", "prompt": "w{i} w{2 * i % 60} w3"}}' for i in range(PROMPTS)]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    server, chooser = _server(), random.Random(3)

    def start(output: Path) -> Any:
        process = server.Process(target=_run, args=(arguments(target_folder, prompts, output),))
        process.start()
        return process

    start(tmp_path / "first").join()  # the server and its imports
    begun = time.monotonic()
    finished = start(tmp_path / "finished")
    finished.join()
    assert finished.exitcode == 0
    lasts, right = time.monotonic() - begun, whole_files(tmp_path / "finished")
    assert set(DETERMINISTIC) <= right.keys()

    kills, lost, wrong, runs, before = 0, 0, 0, 0, dict[str, bytes]()
    output = tmp_path / "killed 0"
    while kills < KILLS or runs == 0:
        process = start(output)
        if kills < KILLS:
            process.join(chooser.uniform(0, 1.1 * lasts))
            process.kill()
        process.join()
        killed, after = process.exitcode != 0, whole_files(output)
        kills += killed
        lost += not before.keys() <= after.keys()
        wrong += any(right[name] != content for name, content in after.items())
        before = after
        if not killed:
            assert after == right
            assert not [path for path in output.rglob(".*") if path.is_file()]  # nothing half written stays
            runs, before, output = runs + 1, {}, tmp_path / f"killed {runs + 1}"
    process = start(output)  # the last one is brought to its end
    process.join()
    wrong += whole_files(output) != right
    write_counts(f"{SUITE}-profiler", COMMAND, {"profiler": kills}, lost + wrong, "kills", wrong)
    assert (lost, wrong) == (0, 0)
    assert kills >= KILLS
