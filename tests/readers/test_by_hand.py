"""Files made to break a reader, each by what it tries; and that nothing is run, overwritten or allocated by them."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load, save

from export.__main__ import main as export
from export.predictor import records
from export.predictor.records import read_records
from integrations.vllm.__main__ import main as vllm
from runtime.__main__ import main as runtime
from runtime.artifacts import MODELS
from runtime.decision.latency import SklearnLoop, random_signals
from runtime.errors import SpeckvError
from runtime.files import read_within
from runtime.npz import parse_npz
from runtime.prompts import read_prompts
from runtime.replay.traces import read_traces
from tests.export.conftest import contents, run, step_rows, write_csv
from tests.readers.readers import GOLDEN, READERS, attempt

ROOT = GOLDEN.parents[1]
WITNESS = "speckv-code-of-a-file-ran"
MEMORY = 8 << 30
"""Bytes of address space for the processes that are fed bombs; torch and its libraries take half of it."""


def refusal(name: str, folder: Path, content: bytes) -> str:
    """Return why a reader refuses `content`."""
    package = folder / "package"
    package.mkdir()
    reader = READERS[name]
    assert not attempt(reader, package, content)
    with pytest.raises(SpeckvError) as caught:
        reader.read(package / reader.name)
    return str(caught.value)


def _npy(shape: str, dtype: str = "<f8", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _zip(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def _lists_of_lists(levels: int) -> bytes:
    """A list that holds the same list twice, which does so too, and so on: small, and endless to print."""
    start = b"]q\x00"
    return start + b"".join(b"]q%c(h%ch%ce" % (level + 1, level, level) for level in range(levels))


REGRESSOR = b"csklearn.neural_network._multilayer_perceptron\nMLPRegressor\n)\x81"
PICKLES = {
    "a key nested a million deep": b"\x80\x04})" + b"\x85" * 900_000 + b"K\x01s.",
    "a memo of half a billion places": b"\x80\x04Nr\xff\xff\xff\x1f.",
    "bytes that are not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "a type that is endless to print": b"\x80\x04cnumpy\ndtype\n(" + _lists_of_lists(60) + b"tR.",
    "an attribute that is endless to print": b"\x80\x04" + REGRESSOR
    + b"}(X\x06\x00\x00\x00coefs_]X\x0b\x00\x00\x00intercepts_]X\x0a\x00\x00\x00activation"
    + _lists_of_lists(60) + b"ub.",
    "one text encoded again and again": b"\x80\x04]X" + struct.pack("<I", 900_000) + b"x" * 900_000
    + b"q\x01X\x06\x00\x00\x00latin1q\x02000" + b"](" + b"c_codecs\nencode\nh\x01h\x02\x86R" * 3000 + b"e.",
    "a function with other defaults": b"\x80\x04cnumpy\ndtype\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
    "more than a megabyte": b"\x80\x04" + b"]" * (1 << 20) + b".",
    "a number as long as the file": b"\x80\x04I" + b"9" * 900_000 + b"\n.",
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles_cost_nothing(case: str, tmp_path: Path) -> None:
    """In a process of its own: what is tried ends a process that falls for it."""
    (tmp_path / "their.pkl").write_bytes(PICKLES[case])
    done = in_bounds("export", "--pickle", tmp_path / "their.pkl", "--output", tmp_path / "package")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr[-2000:]
    assert "their.pkl" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["their.pkl"]


def in_bounds(*arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a module in a bounded address space."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, input=text, capture_output=True, text=True, check=False, timeout=120, preexec_fn=bound
    )


NPZ: dict[str, tuple[bytes, str]] = {
    "a header that asks for 128 GB": (_zip(("0_code.npy", _npy("(1000000000, 16, 4)", "<f2"))), "bytes, 0 are there"),
    "a gigabyte of zeros in a megabyte": (
        _zip(("0_code.npy", _npy("(8388608, 16, 4)", "<f2", bytes(1 << 30)))), "unpacks to more than 128 MB"
    ),
    "a negative shape": (_zip(("0_code.npy", _npy("(-2, -32)", "<f2", bytes(128)))), "cannot be read"),
    "objects": (_zip(("0_code.npy", _npy("(1,)", "|O", b"\x80\x04N."))), "not of numbers"),
    "records": (_zip(("0_code.npy", _npy("(1,)", "|V8", bytes(8)))), "not of numbers"),
    "a single array": (_npy("(1, 16, 4)", "<f2", bytes(128)), "single array"),
    "no array": (_zip(), "holds no traces"),
    "not an array": (_zip(("0_code.npy", b"hello")), "'0_code' cannot be read"),
    "a version to come": (_zip(("0_code.npy", b"\x93NUMPY\x09\x00" + bytes(60))), "version"),
    "a header of nested brackets": (_zip(("0_code.npy", _npy("(" * 4000))), "cannot be read"),
    "a gzip": (b"\x1f\x8b\x08" + bytes(60), "cannot be read as an npz"),
    "entropies beyond any vocabulary": (
        _zip(("0_code.npy", _npy("(1, 16, 4)", "<f2", np.full(64, 40, np.float16).tobytes()))), "no entropies in bits"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NPZ)
def test_hostile_traces_are_refused(case: str, tmp_path: Path) -> None:
    content, reason = NPZ[case]
    assert reason in refusal("traces", tmp_path, content)


def test_an_array_that_is_there_twice_is_refused() -> None:
    array = _npy("(1,)", "<f8", bytes(8))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = _zip(("a.npy", array), ("a.npy", array))
    for content in (twice, _zip(("a.npy", array), ("a", array))):
        with pytest.raises(SpeckvError, match="'a' is there twice"):
            parse_npz(Path("x.npz"), content, 1000, "")


JSON: dict[str, bytes] = {
    "nested": b"[" * 200_000,
    "nested inside": b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
    "a number of 5,000 digits": b'{"draft": {"eager1": ' + b"1" * 5000 + b"}}",
    "a width of 5,000 digits": b'{"draft": {"eager1": 1}, "fp32": {"eager' + b"1" * 5000 + b'": 1}}',
    "times beyond a float": b'{"draft": {"eager1": 1' + b"0" * 400 + b'}, "fp32": {"eager1": 1}}',
    "not a number": b'{"draft": {"eager1": NaN}, "fp32": {"eager1": Infinity}}',
    "two megabytes": b'{"a": "' + b"x" * (2 << 20) + b'"}',
    "wrong encoding": '{"é": 1}'.encode("latin1"),
    "half a surrogate pair and an escape": b'{"\\ud800\\u001b[2J": 1}',
}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("name", ["manifest", "drafter-config", "profile", "step-times"])
def test_hostile_json_is_refused(case: str, name: str, tmp_path: Path) -> None:
    assert READERS[name].name in refusal(name, tmp_path, JSON[case])


def test_a_file_without_an_end_is_read_up_to_the_bound() -> None:
    with pytest.raises(SpeckvError, match=r"/dev/zero is larger than 1 MB: stop"):
        read_within(Path("/dev/zero"), 1 << 20, "stop")
    with pytest.raises(SpeckvError, match="cannot be read"):
        read_within(Path("a\0b"), 1, "")


ROWS = step_rows(6)


def csv_file(folder: Path, change: Callable[[str], str | bytes]) -> Path:
    path = write_csv(folder / "steps.csv", ROWS)
    changed = change(path.read_bytes().decode().replace("\r\n", "\n"))
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\n", 2).replace("\n", "\r", 1),
        lambda text: "\n" + text if not text else text + "\n\r\n\n",
        lambda text: text.replace("code", '"code"'),
        lambda text: "\n".join(line + ',"a\nb, c\r\n"' if n else line + ",note" for n, line in enumerate(text.split())),
    ],
)
def test_records_of_any_line_ends(tmp_path: Path, change: Callable[[str], str]) -> None:
    """Byte order mark, CRLF, CR, a mixture, empty lines, quotes, and newlines within quotes."""
    plain = read_records([csv_file(tmp_path, lambda text: text)])
    np.testing.assert_array_equal(read_records([csv_file(tmp_path, change)]).features, plain.features)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("code", '"co\nde"', 1), "row 3, column 'task': 'co\\\\nde' is no name"),
        (lambda text: text.replace("code", "c\x1b[2Jode", 1), "is no name"),
        (lambda text: text.replace("code", "c" * 65, 1), "is no name"),
        (lambda text: text.replace("code", "\0", 1), "is no name|not CSV"),
        (lambda text: text.replace("code", '"code', 1), "not CSV"),
        (lambda text: text.replace("code", "x" * (1 << 20), 1), "row 2: longer than 1048576 characters"),
        (lambda text: text.replace("code", "x" * 200_000, 1), "not CSV"),
        (lambda text: text.encode("utf-16"), "row 1: byte 0xff is not UTF-8"),
        (lambda text: text.encode() + b"\xc3", "row 8: byte 0xc3 is not UTF-8"),
        (lambda text: b"\x1f\x8b\x08\x00" + text.encode(), "row 1: byte 0x8b is not UTF-8"),
    ],
)
def test_broken_records_name_their_row(tmp_path: Path, change: Callable[[str], str | bytes], reason: str) -> None:
    with pytest.raises(SpeckvError, match=rf"^steps\.csv, .*{reason}" if "row 3" not in reason else reason):
        read_records([csv_file(tmp_path, change)])


def test_more_records_than_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS", 5)
    with pytest.raises(SpeckvError, match=r"steps\.csv, row 7: more than 5 records; give a sample"):
        read_records([csv_file(tmp_path, lambda text: text)])
    with pytest.raises(SpeckvError, match="row 1: longer than"):
        read_records([Path("/dev/zero")])


def test_prompts_as_they_come(tmp_path: Path) -> None:
    path, line = tmp_path / "prompts.jsonl", '{"task": "code", "prompt": "a\u2028b\x85c"}'
    path.write_bytes(f"\ufeff{line}\r\n\r\n{line}\n".encode())
    assert [prompt.text for prompt in read_prompts(path)] == ["a\u2028b\x85c"] * 2
    for content, reason in (
        (b'{"task": "code", "prompt": "\\ud800"}', "line 1: field 'prompt' holds half of a surrogate pair"),
        (b"[" * 100_000, "line 1: not JSON"),
        (line.encode("utf-16"), "cannot be read"),
        (b'{"task": "../x", "prompt": "a"}', "line 1: field 'task' may hold letters"),
        (b" " * (65 << 20), "is larger than 64 MB"),
    ):
        path.write_bytes(content)
        with pytest.raises(SpeckvError, match=rf"prompts\.jsonl.*{reason}"):
            read_prompts(path)


def graph_with(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_from_string(READERS["decision"].sample())
    change(model)
    return model.SerializeToString()


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def _huge(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"]))


GRAPHS: dict[str, tuple[bytes, str]] = {
    "weights in another file": (graph_with(_external), "stored in another way"),
    "a constant of eight terabytes": (graph_with(_huge), "computes something else"),
    "somebody's own operator": (graph_with(lambda m: setattr(m.graph.node[0], "domain", "x")), "something else"),
    "a function": (graph_with(lambda m: m.functions.add(name="f")), "computes something else"),
    "a weight that is not finite": (
        graph_with(lambda m: setattr(m.graph.initializer[0], "raw_data", np.full(64, np.nan).tobytes())), "finite"
    ),
    "a weight that is there twice": (
        graph_with(lambda m: m.graph.initializer.append(m.graph.initializer[0])), "computes something else"
    ),
    "weights of another shape": (
        graph_with(lambda m: m.graph.initializer[0].dims.__setitem__(1, 15)), "W1_signals has shape"
    ),
    "another output": (graph_with(lambda m: setattr(m.graph.output[0], "name", "g")), "computes something else"),
    "nothing": (b"", "W1_signals has shape"),
    "another file": (b"\x7fELF" + bytes(100), "not a graph"),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_hostile_graphs_with_an_agreeing_manifest_are_refused(case: str, tmp_path: Path) -> None:
    content, reason = GRAPHS[case]
    assert reason in refusal("decision", tmp_path, content)


def drafter_with(**changes: torch.Tensor) -> bytes:
    return save({**load(READERS["drafter"].sample()), **changes})


QUERY = "layers.0.self_attn.q_proj.weight"
DRAFTERS: dict[str, tuple[bytes, str]] = {
    "a scale that is not finite": (drafter_with(**{f"{QUERY}.scale": torch.full((16,), torch.nan)}), "not finite"),
    "a scale of another shape": (drafter_with(**{f"{QUERY}.scale": torch.ones(3)}), "not finite"),
    "a tensor of another name": (drafter_with(other=torch.ones(3)), "unknown tensor other"),
    "a tensor of another shape": (drafter_with(**{"norm.weight": torch.ones(3)}), "norm.weight has shape"),
    "a header longer than the file": (struct.pack("<Q", 1 << 40) + b"{}", "no weights"),
}


@pytest.mark.parametrize("case", DRAFTERS)
def test_hostile_drafters_are_refused(case: str, tmp_path: Path) -> None:
    content, reason = DRAFTERS[case]
    assert reason in refusal("drafter", tmp_path, content)


@pytest.mark.parametrize("layers", [[-1], [2], [0] * 3, [True], [10**30], list(range(10**5))])
def test_layers_that_the_target_does_not_have_are_refused(layers: list[int], tmp_path: Path) -> None:
    config = {**json.loads(READERS["drafter-config"].sample()), "source_layers": layers}
    assert "source_layers" in refusal("drafter-config", tmp_path, json.dumps(config).encode())


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (GOLDEN / "target").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_code_in_a_model_folder_is_not_run_even_if_somebody_says_yes(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    mapped = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own")
    (model_folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": mapped}))
    tokenizer = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (model_folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (model_folder / "own.py").write_text(f"open({str(model_folder / WITNESS)!r}, 'w')\nclass Own: pass\n")
    done = in_bounds("runtime", "generate", "w5", "--target", model_folder, "--draft", "early-exit", text="y\ny\ny\n")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]  # transformers has its say before
    assert error.startswith("error: ")
    assert str(model_folder) in error
    assert "Traceback" not in done.stderr
    assert not (model_folder / WITNESS).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}'),
        ("config.json", b'{"model_type": "nothing"}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
        ("tokenizer_config.json", b"[1]"),
        ("model.safetensors", b"\0" * 16),
        ("model.safetensors", b""),
        ("generation_config.json", b'{"eos_token_id": "no"'),
    ],
)
def test_damaged_model_folders_are_one_line(
    model_folder: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (model_folder / name).write_bytes(content)
    code = runtime(
        ["generate", "w5", "--target", str(model_folder), "--draft", "early-exit:1", "--max-new-tokens", "2"]
    )
    if name != "generation_config.json":  # transformers goes on without one
        assert code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_package_of_ones_own_never_replaces_the_shipped_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(MODELS)
    steps = write_csv(tmp_path / "steps.csv", step_rows())
    for arguments in (["--records", steps], ["--pickle", MODELS / "speckv-mlp16" / "speckv_mlp16.pkl"]):
        assert run(*arguments) == 2
        assert "give --output" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(["stopper", "--traces", "x.npz", "--step-times", "x.json"])
    assert "--output" in capsys.readouterr().err
    assert contents(MODELS) == before


def test_a_drafter_export_refuses_before_it_loads_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--target", str(tmp_path / "absent"), "--work", str(tmp_path / "work"), "--minutes", "1"]
    with pytest.raises(SystemExit):
        export(["drafter", *needed, "--output", str(tmp_path / "out"), "--seed", "-1"])
    assert "-1 is below 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(["drafter", *needed, "--output", str(tmp_path / "out"), "--seed", str(2**64)])
    assert f"{2**64} is above {2**62 - 1}" in capsys.readouterr().err
    own = tmp_path / "out" / "4-layers"
    own.mkdir(parents=True)
    (own / "thesis.tex").write_text("x")
    assert export(["drafter", *needed, "--output", str(tmp_path / "out"), "--layers", "4"]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert (own / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    "changes", [{"precisions": ["../../secret"]}, {"target": "--trust-remote-code"}, {"draft": "a\nb"}, {"target": ""}]
)
def test_a_profile_cannot_name_paths_or_options(
    changes: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = {**json.loads(READERS["profile"].sample()), **changes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert vllm(["plan", "--profile", str(tmp_path)]) == 2
    assert "manifest.json names no pair" in capsys.readouterr().err


def test_a_program_of_that_name_where_one_stands_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child of `latency` is a module of this installation, not of the folder that one works in."""
    own = tmp_path / "export" / "predictor"
    own.mkdir(parents=True)
    for folder in (own.parent, own):
        (folder / "__init__.py").write_text("")
    (own / "sklearn_loop.py").write_text(f"open({str(tmp_path / WITNESS)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with SklearnLoop() as loop:
        gammas, _ = loop.decide(random_signals(3))
    assert len(gammas) == 3
    assert not (tmp_path / WITNESS).exists()


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[2J\nb.npz"
    np.savez(path, **{"0_\x1b[2J\n": np.zeros(3)})
    assert runtime(["replay", "--traces", str(path), "--step-times", "x.json", "--compression", "fp16"]) == 2
    with pytest.raises(SpeckvError) as caught:
        read_traces(path)
    assert str(caught.value).isprintable()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert len(str(SpeckvError("x" * 10**6))) < 2100
    assert os.sep in str(caught.value)
