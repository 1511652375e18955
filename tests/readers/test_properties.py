"""Whatever a file holds, its reader takes it or refuses it in one line: random bytes, damaged samples, odd contents."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from tests.counts import write_counts
from tests.export.test_unpickler import fitted
from tests.readers.readers import CORPUS, READERS, Reader, attempt

EXAMPLES = 60
QUICK = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
JSON_READERS = ("manifest", "drafter-config", "package-config", "profile", "step-times")
NPZ_READERS = ("weights", "traces", "verified", "seconds", "part", "documents")

tried: Counter[str] = Counter()
failed: Counter[str] = Counter()

NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DTYPES = hnp.floating_dtypes() | hnp.integer_dtypes() | hnp.boolean_dtypes() | hnp.byte_string_dtypes()
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=17), fill=st.nothing())
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]),
        st.integers(0, 2**20),
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", autouse=True)
def _counted() -> Iterator[None]:
    yield
    if tried:
        write_counts("readers", "make test", tried, sum(failed.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers") / "package"
    folder.mkdir()
    return folder


def check(name: str, folder: Path, content: bytes) -> bool:
    """Let a reader read `content`, with nothing else in the folder."""
    for path in folder.iterdir():
        path.unlink()
    tried[name] += 1
    failed[name] += 1
    taken = attempt(READERS[name], folder, content)
    failed[name] -= 1
    return taken


def damaged(sample: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """Apply random edits."""
    data = bytearray(sample)
    for kind, place, length, content in edits:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << length % 8
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = content
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * (length % 5)
    return bytes(data)


@pytest.mark.parametrize("name", READERS)
def test_samples_are_taken(name: str, folder: Path) -> None:
    assert check(name, folder, READERS[name].sample())


@pytest.mark.parametrize("name", READERS)
def test_what_broke_a_reader_once(name: str, folder: Path) -> None:
    for path in sorted((CORPUS / name).glob("*")):
        check(name, folder, path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(name: str, folder: Path) -> None:
    @QUICK
    @given(st.binary(max_size=400))
    def property_holds(content: bytes) -> None:
        assert not check(name, folder, content) or name in ("prompts", "records")

    property_holds()


@pytest.mark.parametrize("name", READERS)
def test_damaged_samples(name: str, folder: Path) -> None:
    sample = READERS[name].sample()

    @QUICK
    @given(EDITS)
    def property_holds(edits: list[tuple[str, int, int, bytes]]) -> None:
        check(name, folder, damaged(sample, edits))

    property_holds()


@pytest.mark.parametrize("name", JSON_READERS)
def test_json_with_another_value(name: str, folder: Path) -> None:
    sample = json.loads(READERS[name].sample())
    places = list(_places(sample))

    @QUICK
    @given(st.sampled_from(places), VALUES)
    def property_holds(place: tuple[str | int, ...], value: object) -> None:
        content = json.loads(READERS[name].sample())
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        check(name, folder, json.dumps(content).encode())

    property_holds()


def _places(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the keys that lead to every value in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*before, key)
        yield from _places(inner, (*before, key))


@pytest.mark.parametrize("name", NPZ_READERS)
def test_npz_with_another_array(name: str, folder: Path) -> None:
    with np.load(io.BytesIO(READERS[name].sample())) as arrays:
        sample = {key: arrays[key] for key in arrays.files}

    @QUICK
    @given(st.sampled_from([*sample, "another_one"]), ARRAYS, st.booleans())
    def property_holds(key: str, array: np.ndarray, as_objects: bool) -> None:
        file = io.BytesIO()
        np.savez(file, **{**sample, key: array.astype(object) if as_objects else array})  # type: ignore[arg-type]
        check(name, folder, file.getvalue())

    property_holds()


@QUICK
@given(st.sampled_from(list(load(READERS["drafter"].sample()))), ARRAYS)
def test_safetensors_with_another_tensor(folder: Path, key: str, array: np.ndarray) -> None:
    if array.dtype.kind in "fiub" and array.dtype.isnative:
        tensors = load(READERS["drafter"].sample())
        check("drafter", folder, save({**tensors, key: np.ascontiguousarray(array)}))


@QUICK
@given(st.sampled_from(sorted(vars(fitted()))), VALUES | ARRAYS | st.lists(ARRAYS, max_size=3), st.integers(0, 5))
def test_regressors_with_another_attribute(folder: Path, attribute: str, value: object, protocol: int) -> None:
    regressor = fitted_once()
    before = getattr(regressor, attribute)
    setattr(regressor, attribute, value)
    content = pickle.dumps(regressor, protocol)
    setattr(regressor, attribute, before)
    check("pickle", folder, content)


REGRESSOR: list[Any] = []


def fitted_once() -> Any:
    if not REGRESSOR:
        REGRESSOR.append(fitted())
    return REGRESSOR[0]


NAMES = (
    *(b"numpy\ndtype\n", b"numpy\nndarray\n", b"numpy.core.multiarray\n_reconstruct\n"),
    *(b"copy_reg\n_reconstructor\n", b"_codecs\nencode\n", b"numpy._core.numeric\n_frombuffer\n"),
    *(b"__builtin__\nobject\n", b"sklearn.neural_network._multilayer_perceptron\nMLPRegressor\n", b"os\nsystem\n"),
)
INSTRUCTIONS = st.one_of(
    st.sampled_from([bytes([code]) for code in range(256)]),
    st.sampled_from([b"c" + name for name in NAMES]),
    st.sampled_from([b"(", b")", b"]", b"}", b"t", b"R", b"b", b"\x81", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a"]),
    st.binary(max_size=12).map(lambda data: b"C" + bytes([len(data)]) + data),
    st.sampled_from(
        [b"\x8c\x02f8", b"\x8c\x02O8", b"K\x02", b"J\xff\xff\xff\x7f", b"\x8c\x06latin1", b"h\x00", b"q\x00"]
    ),
)


@settings(QUICK, max_examples=4 * EXAMPLES)
@given(st.lists(INSTRUCTIONS, max_size=24))
def test_pickles_of_any_instructions(folder: Path, instructions: list[bytes]) -> None:
    assert not check("pickle", folder, b"\x80\x02" + b"".join(instructions) + b".")


CELLS = st.text(max_size=12) | st.sampled_from(
    ['"', '"\n"', '"\r\n"', "\r", "\0", "1e9", "-1", "nan", "\ufeff", "x" * 99]
)


@QUICK
@given(st.integers(0, 10**6), st.integers(0, 10), CELLS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_records_with_another_cell(folder: Path, row: int, column: int, cell: str, end: str, mark: bool) -> None:
    lines = [line.split(",") for line in READERS["records"].sample().decode().splitlines()]
    lines[row % len(lines)][column] = cell
    text = end.join(",".join(line) for line in lines)
    check("records", folder, b"\xef\xbb\xbf" * mark + text.encode("utf-8", "surrogatepass"))


@QUICK
@given(st.lists(st.tuples(VALUES, VALUES), max_size=3), st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), st.booleans())
def test_prompts_of_any_values(folder: Path, fields: list[tuple[object, object]], end: str, mark: bool) -> None:
    lines = [json.dumps({"task": task, "prompt": prompt}) for task, prompt in fields]
    check("prompts", folder, b"\xef\xbb\xbf" * mark + end.join(lines).encode())


@pytest.mark.parametrize("name", ["decision", "stopper"])
def test_graphs_that_were_changed(name: str, folder: Path) -> None:
    sample = onnx.load_from_string(READERS[name].sample())
    operators = st.sampled_from(
        ["Loop", "If", "ConstantOfShape", "Expand", "Tile", "Add", "Identity", "Range", "Shape"]
    )
    shapes = st.lists(st.integers(-2, 2**62), max_size=3)

    @QUICK
    @given(st.integers(0, 30), operators, shapes, st.booleans())
    def property_holds(place: int, operator: str, shape: list[int], of_weight: bool) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(sample)
        if of_weight:
            tensor = model.graph.initializer[place % len(model.graph.initializer)]
            del tensor.dims[:]
            tensor.dims.extend(shape)
        else:
            model.graph.node[place % len(model.graph.node)].op_type = operator
        changed = model.SerializeToString(deterministic=True)
        assert not check(name, folder, changed) or changed == sample.SerializeToString(deterministic=True)

    property_holds()


def test_every_reader_has_a_kept_corpus_or_none_at_all() -> None:
    """A folder that no reader is named after would never be tried."""
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= READERS.keys()


def test_a_reader_that_misbehaves_is_caught(folder: Path) -> None:
    def starts(_: Path) -> None:
        __import__("subprocess").run(["true"], check=True)

    def changes(path: Path) -> None:
        path.write_bytes(b"other")

    for read in (starts, changes, lambda _: 1 / 0, lambda path: json.loads(path.read_bytes())):
        with pytest.raises(Exception, match=r"started|changed|division|Expecting"):
            attempt(Reader("x.json", read, bytes), folder, b"{")
