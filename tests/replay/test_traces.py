"""Traces are read as they are, and what is no trace is refused by file and key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import SpeckvError
from runtime.profile import trace
from runtime.replay.traces import LOOKAHEAD, read_traces

GOOD = np.zeros((3, 16, 4), np.float16)
VERIFIED = np.zeros((3, 3), np.float16)
SECONDS = np.array([True, False, False])


def test_what_a_trace_holds(tmp_path: Path) -> None:
    array = GOOD.copy()
    array[1, :5, 0] = 1
    array[2, 1, 1:] = 2.5, 0.5, 0.25
    np.savez(tmp_path / "fp16.npz", **{"7_code": array, "8_long_task": GOOD})
    one, two = read_traces(tmp_path / "fp16.npz")
    assert (one.key, one.task, one.positions, one.accepted) == ("7_code", "code", 3, [0, 5, 0])
    assert one.rollouts[2][1] == (2.5, 0.5, 0.25)
    assert two.task == "long_task"
    assert trace.LOOKAHEAD == LOOKAHEAD


def broken(**changes: float) -> np.ndarray:
    array = GOOD.copy()
    array[0, 3, 0] = changes.get("flag", 0)
    array[0, 0, 1] = changes.get("entropy", 0)
    return array


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 16, 3), np.float16),
        np.zeros((3, 8, 4), np.float16),
        np.zeros((0, 16, 4), np.float16),
        np.zeros(5, np.int32),
        np.zeros((3, 16, 4), np.int64),
        np.array([{"a": 1}], dtype=object),
        broken(flag=1),  # accepted after a rejected one
        broken(flag=0.5),
        broken(entropy=float("nan")),
    ],
)
def test_an_array_that_is_no_trace_is_named(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "fp16.npz", **{"0_code": GOOD, "1_code": array})
    with pytest.raises(SpeckvError, match=r"fp16\.npz: '1_code'"):
        read_traces(tmp_path / "fp16.npz")


def test_what_verification_left_is_read_from_beside(tmp_path: Path) -> None:
    verified = np.array([[0, 0, 0], [2.5, 0.5, 0.25], [1, 0.75, 0]], np.float16)
    np.savez(tmp_path / "fp16.npz", **{"7_code": GOOD})
    assert np.isnan(read_traces(tmp_path / "fp16.npz")[0].verified_before(1)).all()
    np.savez(tmp_path / "fp16_verified.npz", **{"7_code": verified})
    (text,) = read_traces(tmp_path / "fp16.npz")
    assert [text.verified_before(1), text.verified_before(2)] == [(2.5, 0.5, 0.25), (1, 0.75, 0)]
    assert np.isnan(text.verified_before(3)).all()  # the last token's: no step begins after it


@pytest.mark.parametrize(
    ("kind", "arrays", "said"),
    [
        ("verified", {"0_code": VERIFIED[:, :2]}, r"'0_code' is .*\[positions, 3\]"),
        ("verified", {"0_code": VERIFIED.astype(int)}, "'0_code' is int"),
        ("verified", {"0_code": VERIFIED[:2]}, "'0_code' has 2 positions, its trace 3"),
        ("verified", {"0_code": np.full((3, 3), np.nan)}, "'0_code' holds values that are not finite"),
        ("verified", {"1_code": VERIFIED}, "lacks '0_code'"),
        ("verified", {"0_code": VERIFIED, "1_code": VERIFIED}, "has another text, '1_code'"),
        ("verified", {}, "holds no traces"),
        ("seconds", {"0_code": SECONDS.astype(float)}, r"'0_code' is float64 \[3\]: it is bool \[positions\]"),
        ("seconds", {"0_code": SECONDS[:, None]}, r"'0_code' is bool \[3, 1\]"),
        ("seconds", {"0_code": SECONDS[:2]}, "'0_code' has 2 positions, its trace 3"),
        ("seconds", {"1_code": SECONDS}, "lacks '0_code'"),
        ("seconds", {"0_code": SECONDS, "1_code": SECONDS}, "has another text, '1_code'"),
        ("seconds", {}, "lacks '0_code'"),
    ],
)
def test_a_file_beside_that_does_not_belong_is_named(
    tmp_path: Path, kind: str, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "fp16.npz", **{"0_code": GOOD})
    np.savez(tmp_path / f"fp16_{kind}.npz", **arrays)
    with pytest.raises(SpeckvError, match=rf"fp16_{kind}\.npz.* {said}"):
        read_traces(tmp_path / "fp16.npz")


def test_where_second_choices_are_right_is_read_where_it_is_known(tmp_path: Path) -> None:
    np.savez(tmp_path / "fp16.npz", **{"0_code": GOOD})
    assert read_traces(tmp_path / "fp16.npz")[0].seconds is None
    np.savez(tmp_path / "fp16_seconds.npz", **{"0_code": SECONDS})
    assert read_traces(tmp_path / "fp16.npz")[0].seconds == [True, False, False]


def test_a_key_without_a_task_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "fp16.npz", code=GOOD)
    with pytest.raises(SpeckvError, match="INDEX_TASK"):
        read_traces(tmp_path / "fp16.npz")


def test_files_that_are_no_npz_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not numpy")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    np.savez(tmp_path / "none.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, GOOD)
    for name in ("text", "empty", "cut", "none", "array", "missing"):
        with pytest.raises(SpeckvError, match=rf"{name}\.npz"):
            read_traces(tmp_path / f"{name}.npz")
    with pytest.raises(SpeckvError):
        read_traces(tmp_path)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fp16.npz"
    np.savez_compressed(path, **{"0_code": np.random.default_rng(0).random((50, 16, 4))})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SpeckvError, match="'0_code' cannot be read"):
        read_traces(path)
