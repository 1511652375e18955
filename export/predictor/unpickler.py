"""Opening a predictor's pickle without running what is in it.

A pickle is a program. This unpickler admits the names that a pickled `MLPRegressor` of scikit-learn 1.2 and newer
consists of and refuses all others. None of these is the real thing: the regressor, its optimizer and its random state
become inert stand-ins that hold attributes, so that no code of scikit-learn runs, whatever version wrote the file.
numpy's own constructors would take forged pointers for objects: arrays are made here, of plain numbers only.

It is Python's own unpickler in Python, less what a regressor does not need. The one in C allocates whatever index a
pickle gives its memo, and both end the process on a dictionary whose key is a tuple nested a million deep.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # nosec B403
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from runtime.errors import SpeckvError

MAX_BYTES = 1 << 20
"""Far above any SpecKV predictor (12 kB as published); a byte of pickle can make an object of 200."""

ROOT = "MLPRegressor"

_NUMBERS = {"b1", "f4", "f8", "i4", "i8", "u4", "u8"}
_OBJECTS = "O8"

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
        raise SpeckvError(f"{path.name} is larger than {MAX_BYTES / 2**20:g} MB: not a SpecKV predictor")
    return parse_pickle(path.name, data)


def parse_pickle(name: str, data: bytes) -> PickledRegressor:
    """Read the attributes of the `MLPRegressor` pickled in `data`; `name` is for messages.

    Raises:
        SpeckvError: if `data` is anything but that.
    """
    try:
        root = _plain(_Unpickler(io.BytesIO(data), name).load())
        state = {key: _plain(value) for key, value in vars(root).items()} if isinstance(root, _StandIn) else {}
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
    return PickledRegressor(name, data, state)


class _StandIn:
    """Holds the attributes of a pickled object and does nothing."""

    def __new__(cls, *_arguments: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


_NOT_NEEDED = (
    *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
"""Instructions of pickles that no pickled regressor holds: objects from elsewhere, and containers that hash."""


_PLAIN: Mapping[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _Unpickler(pickle._Unpickler):
    append: Callable[[object], None]
    read: Callable[[int], bytes]
    stack: list[Any]

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self._name = name
        self._encoded = 0

    def find_class(self, module: str, name: str) -> Any:
        # A fresh stand-in a name, so that a pickle can spoil only its own.
        if (module, name) in _STAND_INS:
            return type(name, (_StandIn,), {})
        if (module, name) == ("_codecs", "encode"):
            return _Function(self._encode)
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module.split(".")[0] == "joblib":
            raise SpeckvError(f"{self._name} was written by joblib; write it again with pickle.dump(regressor, file)")
        raise SpeckvError(
            f"{self._name}: refused '{module}.{name}', which an {ROOT} does not need; nothing of the file was run"
        )

    def _encode(self, text: str, encoding: str) -> bytes:
        """Stand for `_codecs.encode`, by which protocols 0 to 2 write bytes."""
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as {_word(encoding)}")
        self._encoded += len(text)
        if self._encoded > MAX_BYTES:  # one text, encoded again and again
            raise ValueError("more bytes than it is long")
        return text.encode("latin1")

    def _refuse(self) -> None:
        raise ValueError("an instruction that no regressor needs")

    def _set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        _PLAIN[pickle.SETITEM[0]](self)

    def _set_items(self) -> None:
        self._check_keys(self.stack[::2])
        _PLAIN[pickle.SETITEMS[0]](self)

    def _dict(self) -> None:
        self._check_keys(self.stack[::2])
        _PLAIN[pickle.DICT[0]](self)

    def _bytearray(self) -> None:
        size = int.from_bytes(self.read(8), "little")  # allocated only as far as it is there
        self.append(bytearray(self.read(size)))

    @staticmethod
    def _check_keys(keys: list[Any]) -> None:
        if not all(isinstance(key, str) for key in keys):
            raise TypeError("a dictionary with keys that are not strings")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_PLAIN,
        **dict.fromkeys((code[0] for code in _NOT_NEEDED), _refuse),
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.BYTEARRAY8[0]: _bytearray,
    }


class _Function:
    """One of the functions below, for a pickle to call and not to change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise TypeError("a function has no state")


class _Dtype:
    """Stands for a `numpy.dtype` of numbers, or (`numbers` None) of objects."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or (name not in _NUMBERS and name != _OBJECTS):
            raise TypeError(f"arrays of {_word(name)}")
        self.numbers: np.dtype[Any] | None = np.dtype(name) if name in _NUMBERS else None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.numbers is not None:
            self.numbers = self.numbers.newbyteorder(state[1])


class _Array:
    """Stands for a pickled array until its state arrives."""

    values: npt.NDArray[Any] | list[str] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _strings(data) if _is_objects(dtype) else _numbers(data, dtype, shape, "F" if fortran else "C")


def _plain(value: Any) -> Any:
    """Return `value` with the arrays in it, or in the list that it is, in place of their stand-ins."""
    if isinstance(value, list):
        return [item.values if isinstance(item, _Array) else item for item in value]
    return value.values if isinstance(value, _Array) else value


def _is_objects(dtype: object) -> bool:
    return isinstance(dtype, _Dtype) and dtype.numbers is None


def _strings(data: object) -> list[str]:
    """Return the elements of an object array: feature names, never as a numpy array of objects."""
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise TypeError("an object array of something else than strings")
    return data


def _numbers(data: object, dtype: object, shape: Any, order: Any) -> npt.NDArray[Any]:
    """Return `data` as an array of numbers; numpy checks that it is long enough for `shape`."""
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype) or dtype.numbers is None:
        raise TypeError("an array of something else than numbers")
    return np.ndarray(shape, dtype.numbers, data, order=order)  # no copy: a pickle may ask for many of one `data`


def _word(value: object) -> str:
    """Return a text as it is and of anything else the type: a list can hold itself, many times over."""
    return value if isinstance(value, str) else f"a {type(value).__name__}"


_NDARRAY = object()
"""Stands for `numpy.ndarray`, which pickles name but never need to call."""


def _dtype(name: str, *_flags: object) -> _Dtype:
    """Stand for `numpy.dtype`."""
    return _Dtype(name)


def _reconstruct(cls: object, *_arguments: object) -> _Array:
    """Stand for numpy's `_reconstruct`, by which protocols 0 to 4 make arrays."""
    if cls is not _NDARRAY:
        raise TypeError("a subclass of ndarray")
    return _Array()


def _scalar(dtype: object, data: object) -> Any:
    """Stand for numpy's `scalar`."""
    return _numbers(data, dtype, (), "C")[()]


def _new_stand_in(cls: object, *_arguments: object) -> _StandIn:
    """Stand for `copyreg._reconstructor`, by which protocols 0 and 1 make objects."""
    if not isinstance(cls, type) or not issubclass(cls, _StandIn):
        raise TypeError("something else than an estimator's part is not made this way")
    return cls()


def _from_buffer(data: object, dtype: object, shape: Any, order: Any) -> _Array:
    """Stand for numpy's `_frombuffer`, by which protocol 5 makes arrays."""
    array = _Array()
    array.values = _numbers(data, dtype, shape, order)
    return array


_NAMES = {("__builtin__", "object"): object, ("numpy", "ndarray"): _NDARRAY}

_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("copy_reg", "_reconstructor"): _new_stand_in,  # protocols 0 to 2 write Python 2's names
    ("numpy", "dtype"): _dtype,
    # numpy 2 renamed numpy.core to numpy._core: a pickle of either opens under both.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
