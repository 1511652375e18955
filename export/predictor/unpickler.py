"""Opening a predictor's pickle without running what is in it.

A pickle is a program. This unpickler admits the names that a pickled `MLPRegressor` of scikit-learn 1.2 and newer
consists of and refuses all others. Of these, only numpy's array constructors are real: the regressor, its optimizer and
its random state become inert stand-ins that hold attributes, so that no code of scikit-learn runs either, whatever
version wrote the file.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import SpeckvError

MAX_BYTES = 64 * 1024 * 1024
"""Far above any SpecKV predictor (12 kB as published)."""

ROOT = "MLPRegressor"

_ARRAY_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}

_STAND_INS = {
    ("sklearn.neural_network._multilayer_perceptron", ROOT),
    ("sklearn.neural_network._stochastic_optimizers", "AdamOptimizer"),
    ("sklearn.neural_network._stochastic_optimizers", "SGDOptimizer"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._mt19937", "MT19937"),
}


@dataclass(frozen=True)
class PickledRegressor:
    """A regressor's pickle and what was read from it.

    Attributes:
        name: the file's name, for messages.
        data: the file's bytes.
        state: the regressor's attributes, unchecked.
    """

    name: str
    data: bytes
    state: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return hashlib.sha256(self.data).hexdigest()


def read_pickle(path: Path) -> PickledRegressor:
    """Read the pickle at `path`.

    Raises:
        SpeckvError: if it cannot be read, is too large, or is anything but a pickled `MLPRegressor`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpeckvError(f"cannot read the pickle {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise SpeckvError(f"{path.name} is larger than {MAX_BYTES >> 20} MB: not a SpecKV predictor")
    return parse_pickle(path.name, data)


def parse_pickle(name: str, data: bytes) -> PickledRegressor:
    """Read the attributes of the `MLPRegressor` pickled in `data`; `name` is for messages.

    Raises:
        SpeckvError: if `data` is anything but that.
    """
    try:
        root = _Unpickler(io.BytesIO(data), name).load()
    except SpeckvError:
        raise
    except Exception as error:  # a hostile or damaged pickle can make the constructors raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpeckvError(
            f"{name} is not a readable pickle ({reason}); "
            "write it with pickle.dump(regressor, file), not with joblib or compression"
        ) from None
    if not isinstance(root, _StandIn) or type(root).__name__ != ROOT:
        raise SpeckvError(f"{name} holds a {type(root).__name__}, not an {ROOT}; pickle the fitted regressor itself")
    return PickledRegressor(name, data, dict(root.__dict__))


class _StandIn:
    """Holds the attributes of a pickled object and does nothing."""

    def __new__(cls, *_arguments: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAY_NAMES:
            return _array_constructor(module, name)
        if (module, name) in _STAND_INS:
            return type(name, (_StandIn,), {})  # a fresh class a name, so that a pickle can spoil only its own
        if (module, name) in _REPLACED:
            return _REPLACED[module, name]
        if module.split(".")[0] == "joblib":
            raise SpeckvError(f"{self._name} was written by joblib; write it again with pickle.dump(regressor, file)")
        raise SpeckvError(
            f"{self._name}: refused '{module}.{name}', which an {ROOT} does not need; nothing of the file was run"
        )


def _array_constructor(module: str, name: str) -> Any:
    if module == "numpy":
        return getattr(np, name)
    # numpy 2 renamed numpy.core to numpy._core: a pickle of either opens under both.
    multiarray = "numpy._core.multiarray" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core.multiarray"
    return getattr(importlib.import_module(multiarray), name)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand for `_codecs.encode`, by which protocols 0 to 2 write bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


def _new_stand_in(cls: type, *_arguments: object) -> _StandIn:
    """Stand for `copyreg._reconstructor`, by which protocols 0 and 1 make objects."""
    if not issubclass(cls, _StandIn):
        raise TypeError(f"{cls.__name__} is not made this way")
    return cls()


def _from_buffer(data: bytes, dtype: npt.DTypeLike, shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    """Stand for numpy's `_frombuffer`, by which protocol 5 makes arrays."""
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


_REPLACED = {
    ("_codecs", "encode"): _encode_latin1,
    ("copy_reg", "_reconstructor"): _new_stand_in,  # protocols 0 to 2 write Python 2's names
    ("__builtin__", "object"): object,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
