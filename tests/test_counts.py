"""The table of what was tried, made from what the runs have written, never from anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import counts


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(counts, "FOLDER", tmp_path / "counts")
    return tmp_path / "counts"


def test_suites_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    counts.write_counts("fuzz", "make fuzz", {"pickle": 1200, "records": 34}, 0)
    counts.write_counts("faults-draft", "make test", {"memory": 5}, 0, "faults")
    counts.write_counts("faults-policy", "make test", {"raising": 7}, 0, "faults")
    assert counts.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["faults-draft", "5", "faults"],
        ["faults-policy", "7", "faults"],
        ["fuzz", "1,234", "inputs"],
    ]
    assert lines[-2:] == ["12 faults, 1,234 inputs", "0 crashes, 0 wrong answers"]


def test_a_failure_is_told_apart_and_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    counts.write_counts("cases", "make test", {"a": 9}, 3, "cases", wrong=2)
    assert counts.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 crashes, 2 wrong answers"


def test_without_a_run_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.main() == 1
    assert "nothing has been counted" in capsys.readouterr().out


def test_tests_are_counted_as_they_end(folder: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pathlib import Path
        from tests import counts

        tally = counts.Tally("faults", "faults")
        pytest_runtest_makereport = tally.note

        def pytest_sessionfinish():
            counts.FOLDER = Path(FOLDER)
            tally.write()
        """.replace("FOLDER)", f"{str(folder)!r})")
    )
    pytester.makepyfile(
        test_some="""
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_right(n): pass

        def test_wrong(): assert not 1

        def test_crash(): raise KeyError

        def test_skipped(): pytest.skip()
        """
    )
    pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider")
    (path,) = folder.glob("*.json")
    assert path.name == "faults-some.json"
    text = path.read_text(encoding="utf-8")
    assert '"test_right": 4' in text
    assert '"failed": 2' in text
    assert '"wrong": 1' in text
    assert "skipped" not in text
