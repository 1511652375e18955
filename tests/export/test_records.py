"""Every record that is not one is refused, by file, row and column, before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.predictor.fit import fit_regressor
from export.predictor.records import COLUMNS, read_records
from runtime.errors import SpeckvError
from tests.export.conftest import contents, run, step_rows, write_csv


def test_columns_arrive_in_feature_order(tmp_path: Path) -> None:
    row = step_rows(1)[0] | {"compression": "nf4", "gamma": 4, "accepted": 2, "acceptance_rate": 0.5,
                             "tokens_produced": 3, "mean_draft_entropy": 1.5, "mean_draft_confidence": 0.7,
                             "max_draft_entropy": 2.5, "min_draft_confidence": 0.4}  # fmt: skip
    records = read_records([write_csv(tmp_path / "steps.csv", [row])])
    np.testing.assert_array_equal(records.features, [[1.5, 0.7, 2.5, 0.4, 2, 4]])
    assert (records.acceptance_rate[0], records.tokens_produced[0]) == (0.5, 3)
    assert (records.compression[0], records.task[0], len(records)) == ("nf4", row["task"], 1)
    assert not records.published


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{seed}.csv", step_rows(20, seed)) for seed in (1, 2)]
    records = read_records(files)
    assert [(file.name, file.rows) for file in records.files] == [("1.csv", 20), ("2.csv", 20)]
    np.testing.assert_array_equal(records.features[20:], read_records(files[1:]).features)
    with pytest.raises(SpeckvError, match=r"1\.csv: the same records are given twice"):
        read_records([files[0], files[0]])


def test_byte_order_mark_extra_columns_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "steps.csv", [row | {"note": "x"} for row in step_rows(5)])
    plain = read_records([path])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n")
    np.testing.assert_array_equal(read_records([path]).features, plain.features)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("compression", "int4", "'int4' is unknown; known are fp16, int8, nf4"),
        ("task", "", "the field is empty"),
        ("gamma", "0", "without drafted tokens"),
        ("gamma", "2.5", "2.5 is not a count"),
        ("gamma", "1e400", "not a finite number"),
        ("gamma", "1e300", "1e+300 is above 1024 tokens"),
        ("gamma", "1025", "1025 is above 1024 tokens"),
        ("gamma", "0_4", "'0_4' is not a number"),
        ("mean_draft_entropy", "20", "20 is above 'max_draft_entropy'"),
        ("min_draft_confidence", "0.999", "0.999 is above 'mean_draft_confidence'"),
        ("step", "-1", "-1 is not a count"),
        ("accepted", "9", "9 accepted of 4 drafted"),
        ("accepted", "-1", "-1 is not a count"),
        ("accepted", "two", "'two' is not a number"),
        ("accepted", "", "'' is not a number"),
        ("tokens_produced", "5", "5 is not accepted + 1 = 3"),
        ("acceptance_rate", "1.01", "outside [0, 1]"),
        ("acceptance_rate", "-0.1", "outside [0, 1]"),
        ("acceptance_rate", "nan", "not a finite number"),
        ("acceptance_rate", "0.55", "0.55 is not 2 accepted over 4 or fewer drafted"),
        ("acceptance_rate", "0.4", "0.4 is not 2 accepted over 4 or fewer drafted"),
        ("acceptance_rate", "0", "0 is not 2 accepted over 4 or fewer drafted"),
        ("mean_draft_entropy", "-0.1", "outside [0, 32]"),
        ("mean_draft_entropy", "inf", "not a finite number"),
        ("max_draft_entropy", "33", "outside [0, 32]"),
        ("mean_draft_confidence", "1.5", "outside [0, 1]"),
        ("min_draft_confidence", "NaN", "not a finite number"),
        ("min_draft_confidence", "-1", "outside [0, 1]"),
    ],
)
def test_a_wrong_field_is_named(
    column: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = step_rows(6)
    rows[4] |= {"gamma": 4, "accepted": 2, "acceptance_rate": 0.5, "tokens_produced": 3}
    rows[4][column] = value
    _refused(write_csv(tmp_path / "steps.csv", rows), tmp_path, capsys, f"steps.csv, row 6, column '{column}'", message)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in step_rows(6)]
    _refused(write_csv(tmp_path / "steps.csv", rows), tmp_path, capsys, f"column '{column}' is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "the file is empty"),
        (lambda data: data.split(b"\n")[0] + b"\n", "a header and no records"),
        (lambda data: data.replace(b"gamma", b"gamma,gamma", 1), "row 1: column 'gamma' appears more than once"),
        (lambda data: data[:-2] + b",1,2\n", "row 7: more fields than the header"),
        (lambda data: data.rsplit(b",", 2)[0], "row 7, column 'max_draft_entropy': '' is not a number"),
        (lambda data: data.replace(b"code", b'"code', 1), "not CSV"),
        (lambda data: data.replace(b"code", b"c\xe9de", 1), "row 2: byte 0xe9 is not UTF-8"),
        (lambda data: data.decode().encode("utf-16"), "row 1: byte 0xff is not UTF-8"),
    ],
)
def test_a_broken_file_is_named(change, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "steps.csv", step_rows(6))
    path.write_bytes(change(path.read_bytes().replace(b"\r\n", b"\n")))
    _refused(path, tmp_path, capsys, "steps.csv", message)


def test_unreadable_and_too_few_records_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(tmp_path / "absent.csv", tmp_path, capsys, "cannot read the records", "absent.csv", "No such file")
    _refused(tmp_path, tmp_path, capsys, "cannot read the records", "Is a directory")
    _refused(write_csv(tmp_path / "few.csv", step_rows(7)), tmp_path, capsys, "too few records", "has 1 of 7")
    same = [row | {"accepted": 0, "acceptance_rate": 0, "tokens_produced": 1} for row in step_rows(60)]
    _refused(write_csv(tmp_path / "same.csv", same), tmp_path, capsys, "all have one acceptance rate")


def test_rounding_may_put_a_mean_beyond_its_extreme(tmp_path: Path) -> None:
    rows = step_rows(5)
    rows[0] |= {"mean_draft_entropy": 1.0005, "max_draft_entropy": 1, "mean_draft_confidence": 0.5,
                "min_draft_confidence": 0.5005, "gamma": 1024, "accepted": 0, "acceptance_rate": 0,
                "tokens_produced": 1}  # fmt: skip
    assert len(read_records([write_csv(tmp_path / "steps.csv", rows)])) == 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the overflow on the way there
def test_what_scikit_learn_cannot_fit_is_one_error() -> None:
    with pytest.raises(SpeckvError, match=r"the MLPRegressor cannot be fitted \(.*\); check the records"):
        fit_regressor(np.full((20, 6), 1e300), np.linspace(0, 1, 20))


def _refused(path: Path, folder: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    before = contents(folder)
    assert run("--records", path, "--output", folder / "package") == 2
    (error,) = capsys.readouterr().err.splitlines()  # one line, no traceback
    assert all(part in error for part in parts), error
    assert error.startswith("error: ")
    assert contents(folder) == before
