"""A file is made by one process at a time, and a killed one blocks nobody."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from export.drafter.shared_file import make_once


def test_a_file_that_exists_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    assert make_once(path, lambda path: path.write_text("first") and None)
    assert make_once(path, lambda path: path.write_text("second") and None)
    assert path.read_text() == "first"


def slow(path: Path, seconds: float) -> None:
    def make(path: Path) -> None:
        path.with_name("begun").touch()
        time.sleep(seconds)
        path.write_text("theirs")

    make_once(path, make)


def started(path: Path, seconds: float) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=slow, args=(path, seconds))
    process.start()
    while not path.with_name("begun").exists():
        time.sleep(0.01)
    return process


def test_a_file_under_way_elsewhere_is_left_or_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    process = started(path, 1.0)
    assert not make_once(path, lambda path: path.write_text("ours") and None)
    assert make_once(path, lambda path: path.write_text("ours") and None, wait=True)
    process.join()
    assert path.read_text() == "theirs"


def test_a_killed_maker_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    process = started(path, 60.0)
    process.kill()
    process.join()
    assert make_once(path, lambda path: path.write_text("ours") and None)
    assert path.read_text() == "ours"
