"""The report command as a user meets it: what it writes, and what it refuses to."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from runtime import artifacts
from runtime.__main__ import main
from runtime.replay import replay

TIMES = {
    "draft": {"eager1": 1.0, "graph1": 0.1},
    "fp16": {"eager1": 4.0, "eager17": 20.0, "graph1": 1.0},
    "int8": {"eager1": 9.0},
}
POLICIES = ("none", "fixed:2", "speckv", "confidence", "heuristic", "oracle")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    for precision, prompts in (("fp16", 6), ("int8", 3)):
        texts = {f"{i}_{('code', 'chat')[i % 2]}": trace(generator, 20 + i) for i in range(prompts)}
        np.savez(folder / f"a<b_{precision}.npz", **texts)
    np.savez(folder / "empty_fp16.npz")
    (folder / "times.json").write_text(json.dumps(TIMES))
    return folder


def trace(generator: np.random.Generator, positions: int) -> np.ndarray:
    rollouts = generator.uniform(0.1, 0.5, (positions, 16, 4)).astype(np.float16)
    lengths = np.minimum(generator.geometric(0.3, positions) - 1, positions - np.arange(positions))
    rollouts[:, :, 0] = np.arange(16) < lengths[:, None]
    return rollouts


def run(inputs: Path, output: Path, *more: str, traces: Sequence[str] = ("a<b_fp16.npz", "a<b_int8.npz")) -> int:
    paths = [str(inputs / name) for name in traces]
    options = ["--policies", *POLICIES, "--output", str(output), *more]
    try:
        return main(["report", "--traces", *paths, "--step-times", str(inputs / "times.json"), *options])
    except SystemExit as end:  # argparse leaves this way
        return int(end.code or 0)


@pytest.fixture(scope="module")
def written(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "report"
    assert run(inputs, folder) == 0
    return folder


def numbers(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "replay.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_three_files(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["rates.svg", "replay.json", "report.html"]


def test_the_page_is_well_formed_and_self_contained(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    page = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    tags = {element.tag for element in page.iter()}
    assert {"svg", "table", "figcaption"} <= tags
    assert not tags & {"script", "link", "img", "iframe", "object", "a"}
    assert "http" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    identifiers = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert all(element.get("href", "#")[0] == "#" for element in page.iter())
    assert page.findall(".//title")
    assert any("a<b_fp16" in text for text in page.itertext())  # a name is text, not markup


def test_the_page_says_the_numbers_of_replay_json(written: Path) -> None:
    page = ElementTree.fromstring((written / "report.html").read_text(encoding="utf-8").partition("\n")[2])
    content = numbers(written)
    tables = [table for table in page.iter("table") if "".join(table.find("caption").itertext()).endswith(".npz")]  # type: ignore[union-attr]
    assert len(tables) == len(content["replays"]) == 2
    for table, replayed in zip(tables, content["replays"], strict=True):
        rows = {row[0].text: ["".join(cell.itertext()) for cell in row[1:]] for row in table.find("tbody") or []}
        assert set(rows) == {policy["name"] for policy in replayed["policies"]}
        for policy in replayed["policies"]:
            rate, ratio = policy["tokens_per_second"], policy["ratio"]
            assert rows[policy["name"]][:-1] == [
                f"{rate['value']:.1f}{rate['low']:.1f} – {rate['high']:.1f}",
                f"{ratio['value']:.3f}{ratio['low']:.3f} – {ratio['high']:.3f}",
                *(f"{value:.3f}" for value in policy["task_ratios"].values()),
                f"{policy['tokens_per_step']:.2f}",
                f"{policy['mean_gamma']:.2f}",
            ]


def test_plots_say_the_numbers_of_replay_json(written: Path) -> None:
    page = ElementTree.fromstring((written / "report.html").read_text(encoding="utf-8").partition("\n")[2])
    picture = ElementTree.parse(written / "rates.svg").getroot()
    in_picture = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    plots = [plot for plot in page.iter("svg") if "tokens per second of each policy with" in plot.get("aria-label", "")]
    for plot, replayed in zip(plots, numbers(written)["replays"], strict=True):
        texts = {text.text for text in plot.iter("text")}
        values = [policy["tokens_per_second"]["value"] for policy in replayed["policies"]]
        figures = {f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values}
        assert figures | {policy["name"] for policy in replayed["policies"]} <= texts
        assert figures <= in_picture


def test_replay_json_says_where_it_comes_from(written: Path, inputs: Path) -> None:
    content = numbers(written)
    assert content["made_by"] == "python -m runtime report"
    assert "--traces 'a<b_fp16.npz' 'a<b_int8.npz' --step-times times.json --backend eager" in content["command"]
    assert [file["name"] for file in content["inputs"]][:3] == ["a<b_fp16.npz", "a<b_int8.npz", "times.json"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", file["sha256"]) for file in content["inputs"])
    assert str(inputs) not in json.dumps(content)
    assert {"python", "numpy", "matplotlib"} <= set(content["versions"])
    assert list(content["step_times"]) == ["draft", "fp16", "int8"]


def test_intervals_hold_their_figures_and_the_best_fixed_gamma_is_the_measure(written: Path) -> None:
    for replayed in numbers(written)["replays"]:
        best = f"fixed:{replayed['best_fixed']['overall']}".replace("fixed:0", "none")
        policies = {policy["name"]: policy for policy in replayed["policies"]}
        assert set(POLICIES) - {"confidence"} <= set(policies)
        assert policies[best]["ratio"] == {"value": 1, "low": 1, "high": 1}
        assert max(point["tokens_per_second"] for point in replayed["fixed"]) == pytest.approx(
            policies[best]["tokens_per_second"]["value"]
        )
        for policy in policies.values():
            for figure in (policy["tokens_per_second"], policy["ratio"]):
                assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_course_tiles_the_output(written: Path) -> None:
    for replayed in numbers(written)["replays"]:
        for steps in replayed["course"]["steps"].values():
            assert sum(tokens for _, _, tokens in steps) == len(replayed["course"]["accepted"])


def test_a_rerun_gives_the_same_bytes_but_for_measured_time(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay.time, "thread_time", lambda: 0.0)
    assert run(inputs, tmp_path / "a") == run(inputs, tmp_path / "b") == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_json_prints_replay_json(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(inputs, tmp_path / "new", "--json") == 0
    assert json.loads(capsys.readouterr().out) == numbers(tmp_path / "new")


def test_an_earlier_report_is_renewed_and_other_files_stay(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "new") == 0
    (tmp_path / "new" / "notes.txt").write_text("mine")
    assert run(inputs, tmp_path / "new", traces=["a<b_fp16.npz"]) == 0
    assert len(numbers(tmp_path / "new")["replays"]) == 1
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "report.html", "replay.json", "rates.svg"])
def test_nothing_else_is_overwritten(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("mine")
    assert run(inputs, tmp_path) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_page_of_someone_elses_beside_an_earlier_report_stays(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "new") == 0
    (tmp_path / "new" / "report.html").write_text("mine")
    assert run(inputs, tmp_path / "new") == 2
    assert (tmp_path / "new" / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("traces", "more", "said"),
    [
        (["a<b_fp16.npz", "a<b_int8.npz"], ["--backend", "graph"], "no graph step times of 'int8' (it has eager)"),
        (["missing_fp16.npz"], [], "missing_fp16.npz"),
        (["empty_fp16.npz"], [], "holds no traces"),
        (["a<b_fp16.npz"], ["--policies", "magic"], "magic"),
        (["a<b_fp16.npz"], ["--compression", "nf4"], "nf4"),
        (["a<b_fp16.npz"], ["--unknown"], "--unknown"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    traces: list[str],
    more: list[str],
    said: str,
) -> None:
    assert run(inputs, tmp_path / "new", *more, traces=traces) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len([line for line in captured.err.splitlines() if line and not line.startswith((" ", "usage"))]) == 1
    assert captured.out == ""
    assert not (tmp_path / "new").exists()


def test_without_matplotlib_the_extra_is_named(inputs: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None; from runtime.__main__ import main; "
        f"sys.exit(main(['report', '--traces', {str(inputs / 'a<b_fp16.npz')!r}, '--step-times', "
        f"{str(inputs / 'times.json')!r}, '--output', {str(tmp_path / 'new')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: this command needs 'matplotlib': pip install 'speckv[report]'\n"
    assert not (tmp_path / "new").exists()


def test_a_reliability_curve_is_drawn_where_a_package_holds_one(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "speckv-mlp16").symlink_to(artifacts.MODELS / "speckv-mlp16")
    monkeypatch.setattr(artifacts, "MODELS", models)
    assert run(inputs, tmp_path / "without", traces=["a<b_fp16.npz"]) == 0
    assert "Left out: no installed model package" in (tmp_path / "without" / "report.html").read_text("utf-8")
    (models / "acceptance").mkdir()
    bins = [{"predicted": 0.25, "observed": 0.5, "count": 5}, {"predicted": 0.75, "observed": 0.75, "count": 15}]
    (models / "acceptance" / "config.json").write_text(json.dumps({"performance": {"reliability": bins}}))
    assert run(inputs, tmp_path / "with", traces=["a<b_fp16.npz"]) == 0
    page = (tmp_path / "with" / "report.html").read_text("utf-8")
    assert "expected calibration error 0.062" in page
    assert "Left out" not in page


def test_fixed_gammas_alone_make_a_report(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "new", "--policies", "none", traces=["a<b_fp16.npz"]) == 0
    assert "the fastest rule here" not in (tmp_path / "new" / "report.html").read_text("utf-8")


def test_a_folder_of_any_name_is_shown_as_it_is(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(inputs, Path("d[/b]"), traces=["a<b_fp16.npz"]) == 0
    assert "d[/b]/report.html" in capsys.readouterr().out


def test_a_full_disk_leaves_an_earlier_report_whole(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs, tmp_path / "old", traces=["a<b_fp16.npz"]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    write, written = Path.write_bytes, iter(range(3))

    def full(path: Path, data: bytes) -> int:
        if next(written) < 2:
            return write(path, data)
        write(path, data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert run(inputs, tmp_path / "old", traces=["a<b_int8.npz"]) == 2
    place = tmp_path / "old" / "replay.json"
    assert capsys.readouterr().err.endswith(f"{place}: No space left on device: free space, or choose another place\n")
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert run(inputs, tmp_path / "file" / "report", traces=["none_fp16.npz"]) == 2
    assert "give another --output" in capsys.readouterr().err
