"""Step records made by the project, a package exported from them, and the paper's own files where they are at hand."""

from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from runtime.contract import COMPRESSION_CODES, PICKLE_FILE

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Path(os.environ.get("SPECKV_PUBLISHED", ROOT.parent / "shared" / "data" / "speckv_published"))
OLD_PICKLE = Path(__file__).parent / "fixtures" / "sklearn_1_3_2.pkl"
TASKS = ("code", "chat")


def step_rows(count: int = 360, seed: int = 5) -> list[dict[str, object]]:
    """Return synthetic step records: acceptance falls with the draft's entropy; some last steps are cut short."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for step in range(count):
        gamma = int(generator.choice([2, 4, 6, 8]))
        drafted = gamma if step % 11 else int(generator.integers(1, gamma + 1))
        entropy = float(generator.uniform(0.05, 4))
        accepted = int(generator.binomial(drafted, np.exp(-entropy / 2)))
        confidence = float(np.clip(1 - entropy / 5, 0.05, 1))
        rows.append({
            "compression": list(COMPRESSION_CODES)[step % 3], "gamma": gamma, "task": TASKS[step % 2], "step": step,
            "accepted": accepted, "acceptance_rate": round(accepted / drafted, 4), "tokens_produced": accepted + 1,
            "mean_draft_entropy": round(entropy, 4), "mean_draft_confidence": round(confidence, 4),
            "max_draft_entropy": round(entropy * 1.6, 4), "min_draft_confidence": round(confidence / 2, 4),
        })  # fmt: skip
    return rows


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(*arguments: object) -> int:
    """Run `python -m export` in this process; argparse's own exits become their codes."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def records_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("records") / "steps.csv", step_rows())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, records_csv: Path) -> Path:
    """A package refitted on the synthetic records; tests only read it."""
    folder = tmp_path_factory.mktemp("exported") / "package"
    assert run("--records", records_csv, "--output", folder) == 0
    return folder


@pytest.fixture
def own_pickle(exported: Path, tmp_path: Path) -> Path:
    """A user's pickle, alone in its folder."""
    path = tmp_path / "own.pkl"
    path.write_bytes((exported / PICKLE_FILE).read_bytes())
    return path


@pytest.fixture(scope="session")
def published() -> Path:
    if not (PUBLISHED / "phase2_step_results.csv").is_file():
        pytest.skip(f"the paper's result files are not in {PUBLISHED}: set SPECKV_PUBLISHED to their folder")
    return PUBLISHED


def pickled(value: object) -> bytes:
    return pickle.dumps(value, 4)
