"""Pickles are code: what an MLPRegressor consists of is read, everything else is named and refused unrun."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

from export.predictor import unpickler
from export.predictor.parity import random_rows
from export.predictor.unpickler import parse_pickle, read_pickle
from export.predictor.weights import read_weights
from runtime.artifacts import package_folder
from runtime.contract import FEATURES, PICKLE_FILE
from runtime.errors import SpeckvError
from tests.export.conftest import OLD_PICKLE, ROOT, contents, pickled, run

WITNESS = "speckv-hostile-pickle-ran"


class Runs:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def fitted(**settings: object) -> MLPRegressor:
    """Return a quickly fitted regressor on the six features."""
    rows = random_rows(60)
    settings = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 42} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPRegressor(**settings).fit(rows, rows[:, 1])  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_opens_and_predicts_the_same(protocol: int) -> None:
    regressor = fitted()
    weights = read_weights(parse_pickle("r.pkl", pickle.dumps(regressor, protocol)))
    rows = random_rows(500)
    np.testing.assert_array_equal(weights.regressor().predict(rows), regressor.predict(rows))
    np.testing.assert_allclose(weights.rate(rows), regressor.predict(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "sgd"},
        {"solver": "lbfgs"},
        {"early_stopping": True},
        {"random_state": np.random.RandomState(1)},
        {"hidden_layer_sizes": 5},
    ],
)
def test_every_way_of_fitting_opens(settings: dict[str, object]) -> None:
    regressor = fitted(**settings)
    rows = random_rows(50)
    weights = read_weights(parse_pickle("r.pkl", pickled(regressor)))
    np.testing.assert_array_equal(weights.regressor().predict(rows), regressor.predict(rows))


def test_shipped_pickle_predicts_what_a_plain_load_predicts() -> None:
    path = package_folder() / PICKLE_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an installed scikit-learn may be another version
        regressor = pickle.loads(path.read_bytes())
    rows = random_rows(2000)
    np.testing.assert_array_equal(read_weights(read_pickle(path)).regressor().predict(rows), regressor.predict(rows))


def test_a_pickle_of_scikit_learn_1_3_and_numpy_1_opens_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regressor = read_weights(read_pickle(OLD_PICKLE)).regressor()
        rates = regressor.predict(np.array([[1.0, 0.8, 1.5, 0.4, 0, 4], [5.0, 0.1, 7.5, 0.05, 2, 8]]))
    # What scikit-learn 1.3.2 itself printed when `fixtures/make_pickle.py` wrote the file.
    np.testing.assert_allclose(rates, [0.6652133758773557, 0.2127920309192597], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (pickled(Runs(os.system, f"touch {WITNESS}")), f"'{os.name}.system'"),
        (pickled(Runs(eval, f"open('{WITNESS}', 'w')")), "'builtins.eval'"),
        (pickle.dumps(Runs(exec, f"open('{WITNESS}', 'w')"), 0), "'__builtin__.exec'"),
        (pickled([{"coefs_": (Runs(os.mkdir, WITNESS),)}]), f"'{os.name}.mkdir'"),
        (pickled(Runs(getattr, np.ndarray, "tofile")), "'builtins.getattr'"),
        (pickled(Runs(pickle.loads, b"x")), "'_pickle.loads'"),
        (pickled(Runs(np.load, WITNESS)), "'numpy.load'"),
        (pickled(LinearRegression()), "'sklearn.linear_model._base.LinearRegression'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "'numpy.ndarray.dump'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "'os.system'"),
        (b"\x80\x02csubprocess\nPopen\n.", "'subprocess.Popen'"),
    ],
)
def test_hostile_pickles_are_named_and_never_run(
    data: bytes, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(data, tmp_path, capsys, f"refused {named}")
    assert not (tmp_path / WITNESS).exists()


def test_a_hostile_part_inside_a_real_regressor_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regressor = fitted()
    regressor.coefs_[0] = np.array([Runs(os.system, f"touch {WITNESS}")], dtype=object)
    _refused(pickled(regressor), tmp_path, capsys, f"refused '{os.name}.system'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable pickle"),
        (b"not a pickle", "not a readable pickle"),
        (pickled(fitted())[:-200], "not a readable pickle"),
        (b"\x80\x04P0\n.", "not a readable pickle"),  # a persistent id
        (b"\x80\x04\x82\x01.", "not a readable pickle"),  # an extension code
        (b"\x80\x02cnumpy\nndarray\n(M\xe7\x03lR.", "not a readable pickle"),
        (pickled(Runs(np.ndarray, (2**60,))), "not a readable pickle"),  # larger than any memory
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "bytes encoded as hex"),
        (b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.", "is not made this way"),
        (pickled({"model": 1}), "holds a dict, not an MLPRegressor"),
        (pickled(np.zeros(3)), "holds a ndarray, not an MLPRegressor"),
        (pickled(fitted()._optimizer), "holds a AdamOptimizer, not an MLPRegressor"),
        (pickled(MLPRegressor()), "no 'coefs_': fit it before"),
        (pickled(fitted(activation="tanh")), "'activation' is 'tanh'"),
        (pickled(fitted(hidden_layer_sizes=(4, 4))), "'coefs_' has 3 layers"),
    ],
)
def test_what_is_not_a_predictor_is_named(
    data: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(data, tmp_path, capsys, message)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("out_activation_", "logistic", "'out_activation_' is 'logistic'"),
        ("coefs_", [np.zeros((5, 16)), np.zeros((16, 1))], "'coefs_[0]' has shape (5, 16)"),
        ("coefs_", [np.zeros((6, 16)), np.zeros((16, 2))], "'coefs_[1]' has shape (16, 2)"),
        ("coefs_", [np.zeros((6, 0)), np.zeros((0, 1))], "'coefs_[0]' has shape (6, 0)"),
        ("coefs_", [np.array(1.0), np.zeros((16, 1))], "'coefs_[0]' has shape (1,)"),
        ("coefs_", [np.full((6, 16), np.nan), np.zeros((16, 1))], "'coefs_' holds NaN or infinity"),
        ("coefs_", [[1.0], [2.0]], "'coefs_' holds something else"),
        ("coefs_", np.zeros(2), "'coefs_' has ndarray layers"),
        ("intercepts_", [np.zeros(16, dtype=object), np.zeros(1)], "an object array of something else than strings"),
        ("intercepts_", [np.array(["a"] * 16, dtype=object), np.zeros(1)], "'intercepts_' holds something else"),
        ("feature_names_in_", [np.zeros(2)] * 6, "'feature_names_in_' holds something else than strings"),
        ("intercepts_", [np.zeros(15), np.zeros(1)], "'intercepts_[0]' has shape (15,)"),
        ("feature_names_in_", np.array(FEATURES[::-1], dtype=object), "fitted on gamma, comp_enc"),
    ],
)
def test_a_regressor_of_another_shape_is_named(
    attribute: str, value: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regressor = fitted()
    setattr(regressor, attribute, value)
    _refused(pickled(regressor), tmp_path, capsys, message)


def test_feature_names_in_contract_order_are_accepted() -> None:
    regressor = fitted()
    regressor.feature_names_in_ = np.array(FEATURES, dtype=object)
    assert read_weights(parse_pickle("r.pkl", pickled(regressor))).W1.shape == (6, 16)


class Claims:
    """Pickles to a stand-in whose attribute claims foreign memory as its array."""

    def __reduce__(self) -> tuple[object, ...]:
        memory = {"data": (0x41414141, False), "shape": (6,), "typestr": "|O", "version": 3}
        return MLPRegressor, (), {"__array_interface__": memory}


_core: Any = getattr(np, "_core", None) or np.core  # numpy 1 has the other name alone

FORGED = [
    Runs(np.ndarray, (6,), Runs(np.dtype, "O"), b"A" * 48),  # six pointers to objects
    Runs(_core.numeric._frombuffer, b"A" * 48, np.dtype("O"), (6,), "C"),
    Runs(_core.multiarray.scalar, np.dtype("O"), b"A" * 8),
    Claims(),
]


@pytest.mark.parametrize("forged", FORGED)
def test_forged_pointers_end_in_one_line_and_not_in_a_crash(forged: object, tmp_path: Path) -> None:
    regressor = pickle.loads((package_folder() / PICKLE_FILE).read_bytes())
    regressor.feature_names_in_ = forged
    (tmp_path / "their.pkl").write_bytes(pickled(regressor))
    command = [sys.executable, "-m", "export", "--pickle", tmp_path / "their.pkl", "--output", tmp_path / "package"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done  # a segmentation fault is -11
    assert len(done.stderr.splitlines()) == 1
    assert "their.pkl" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["their.pkl"]


@pytest.mark.parametrize("value", [np.array([1.5], dtype=object), np.zeros(1, dtype=[("a", "O")]), np.zeros(1, "V8")])
def test_arrays_of_anything_but_numbers_and_names_are_refused(value: object) -> None:
    regressor = fitted()
    regressor.extra_ = value
    with pytest.raises(SpeckvError, match="not a readable pickle"):
        parse_pickle("r.pkl", pickled(regressor))


@pytest.mark.parametrize("compress", [0, 3])
def test_joblib_files_are_refused_with_the_way_out(
    compress: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joblib.dump(fitted(), tmp_path / "model.joblib", compress=compress)
    _refused((tmp_path / "model.joblib").read_bytes(), tmp_path, capsys, "joblib", "pickle.dump(regressor, file)")


def test_too_large_and_unreadable_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpeckvError, match=r"cannot read the pickle .*absent\.pkl: No such file"):
        read_pickle(tmp_path / "absent.pkl")
    with pytest.raises(SpeckvError, match="Is a directory"):
        read_pickle(tmp_path)
    monkeypatch.setattr(unpickler, "MAX_BYTES", 1 << 20)
    _refused(struct.pack("<B", 0) * ((1 << 20) + 1), tmp_path, capsys, "larger than 1 MB")


def test_a_pickle_cannot_spoil_the_next_one() -> None:
    # BUILD with a (None, attributes) state sets attributes on whatever is on the stack, here the class itself.
    name = b"csklearn.neural_network._multilayer_perceptron\nMLPRegressor\n"
    with pytest.raises(SpeckvError):
        parse_pickle("spoil.pkl", b"\x80\x02" + name + b"(N}X\x0c\x00\x00\x00__setstate__cnumpy\nndarray\nstb.")
    assert "coefs_" in parse_pickle("r.pkl", pickled(fitted())).state


def _refused(data: bytes, folder: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    path = folder / "their.pkl"
    path.write_bytes(data)
    before = contents(folder)
    assert run("--pickle", path, "--output", folder / "package") == 2
    (error,) = capsys.readouterr().err.splitlines()  # one line, no traceback
    assert all(part in error for part in ("their.pkl", *parts)), error
    assert contents(folder) == before
