"""The acceptance model as a call: equal to its weights, private to its owner, refused where it is another."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.stopper.fit import Weights
from runtime import SpeckvError
from runtime.artifacts import package_folder
from runtime.contract import MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.decision.session import open_packaged
from runtime.stopper import history, progress
from runtime.stopper.stopper import FEATURES, Stopper
from tests.stopper.packages import numpy_answer, random_weights, write_graph, write_package

CONTEXT, DRAFTED = len(history.NAMES), len(progress.NAMES)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package", random_weights(0))


def rows(seed: int, count: int = 200) -> list[list[float]]:
    return np.random.default_rng(seed).normal(0, 2, (count, len(FEATURES))).tolist()


def answers(stopper: Stopper, features: list[list[float]]) -> list[tuple[float, float]]:
    found = []
    for row in features:
        stopper.begin_step(row[:CONTEXT])
        found.append(stopper(row[CONTEXT:]))
    return found


def test_it_answers_as_its_weights_do(package: Path) -> None:
    expected = [numpy_answer(random_weights(0), row) for row in rows(1)]
    np.testing.assert_allclose(answers(Stopper(package), rows(1)), expected, rtol=0, atol=1e-6)


def test_the_context_of_a_step_stays_until_the_next(package: Path) -> None:
    stopper, (first, second) = Stopper(package), rows(2, 2)
    stopper.begin_step(first[:CONTEXT])
    for drafted in (first[CONTEXT:], second[CONTEXT:], first[CONTEXT:]):
        expected = numpy_answer(random_weights(0), [*first[:CONTEXT], *drafted])
        np.testing.assert_allclose(stopper(drafted), expected, rtol=0, atol=1e-6)
    stopper.begin_step(second[:CONTEXT])
    expected = numpy_answer(random_weights(0), [*second[:CONTEXT], *first[CONTEXT:]])
    np.testing.assert_allclose(stopper(first[CONTEXT:]), expected, rtol=0, atol=1e-6)


def test_an_answer_outlives_the_next_call(package: Path) -> None:
    stopper, (first, second) = Stopper(package), rows(3, 2)
    (before,) = answers(stopper, [first])
    kept = tuple(before)
    answers(stopper, [second])
    assert before == kept
    assert all(type(value) is float for value in before)


def test_the_shipped_model_answers_with_probabilities() -> None:
    found = np.array(answers(Stopper(), rows(4)))
    assert ((found >= 0) & (found <= 1)).all()
    assert len(np.unique(found)) > 10


def test_the_shipped_model_answers_as_its_graph_does() -> None:
    asked = rows(7)
    session = open_packaged(package_folder(STOPPER_NAME), STOPPER_FILE, "cpu")
    (expected,) = session.run(None, {"features": np.array(asked, np.float32)})
    np.testing.assert_allclose(answers(Stopper(), asked), expected, rtol=0, atol=1e-6)


def test_weights_beyond_any_sense_make_no_error(tmp_path: Path) -> None:
    weights = random_weights(0)
    huge = Weights(*(1e30 * array for array in vars(weights).values()))
    found = np.array(answers(Stopper(write_package(tmp_path / "huge", huge)), rows(8, 20)))
    assert not ((found < 0) | (found > 1)).any()  # they may be NaN, which stops a draft


@pytest.mark.parametrize("width", [len(FEATURES) - 1, len(FEATURES) + 1])
def test_a_model_of_another_width_is_refused(tmp_path: Path, width: int) -> None:
    package = write_package(tmp_path / "other", random_weights(0, width))
    with pytest.raises(SpeckvError, match=rf"{STOPPER_FILE} is not .* format 1 \(W1 has shape \[{width}, ") as error:
        Stopper(package)
    assert str(package) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stated", [None, '["one", "two"]'])
def test_a_model_of_other_features_is_refused(package: Path, stated: str | None) -> None:
    model = onnx.load(package / STOPPER_FILE)
    properties = {entry.key: entry.value for entry in model.metadata_props if entry.key != "features"}
    onnx.helper.set_model_props(model, properties if stated is None else {**properties, "features": stated})
    write_graph(package, model.SerializeToString())
    with pytest.raises(SpeckvError, match="features"):
        Stopper(package)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match=f"{MANIFEST_FILE}: no such file"):
        Stopper(tmp_path)
    write_graph(tmp_path, b"not a graph")
    with pytest.raises(SpeckvError, match=f"{STOPPER_FILE} is not a graph of format 1"):
        Stopper(tmp_path)
    (tmp_path / STOPPER_FILE).unlink()
    with pytest.raises(SpeckvError, match=f"{STOPPER_FILE}: no such file"):
        Stopper(tmp_path)


def test_two_stoppers_in_two_threads_do_not_mix(package: Path, tmp_path: Path) -> None:
    other = write_package(tmp_path / "other", random_weights(9))
    asked = rows(5, 2000)
    alone = [answers(Stopper(folder), asked) for folder in (package, other, package)]
    stoppers = [Stopper(folder) for folder in (package, other, package)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(answers, stoppers, [asked] * 3))
    assert together == alone


def test_a_copy_and_a_pickled_one_answer_alike_and_apart(package: Path) -> None:
    stopper, (first, second) = Stopper(package), rows(6, 2)
    for twin in (copy.deepcopy(stopper), pickle.loads(pickle.dumps(stopper))):
        stopper.begin_step(first[:CONTEXT])
        assert answers(twin, [second]) == answers(Stopper(package), [second])
        assert stopper(first[CONTEXT:]) == answers(Stopper(package), [first])[0]


def test_it_imports_neither_torch_nor_sklearn_nor_export() -> None:
    script = (
        "import sys; from runtime.stopper.stopper import Stopper; Stopper()\n"
        "print(*[name for name in ('torch', 'transformers', 'sklearn', 'export', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
