"""Every reader of files from outside, as a function of the file's bytes: what the property tests and the fuzzer call.

A reader may take the bytes or refuse them with a `SpeckvError` that names the file in one line. Anything else is a
defect: another exception, a changed file, a started program, an answer that is none.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from export.drafter.checkpoint import Position, load_checkpoint, save_checkpoint
from export.drafter.corpus import Documents
from export.drafter.students import make_student
from export.manifest import manifest
from export.predictor.records import read_records
from export.predictor.unpickler import read_pickle
from export.predictor.weights import Weights, read_weights
from integrations.vllm.plan import read_manifest as read_profile
from runtime.contract import (
    CONFIG_FILE,
    DECISION_FILE,
    MANIFEST_FILE,
    PACKAGE_NAME,
    PICKLE_FILE,
    PUBLISHED_CANDIDATES,
    STOPPER_FILE,
    STOPPER_NAME,
    WEIGHTS_FILE,
)
from runtime.decision.selector import GammaSelector
from runtime.errors import SpeckvError
from runtime.manifest import read_files
from runtime.pair.drafter import WEIGHTS_FILE as WEIGHTS
from runtime.pair.drafter import load_drafter
from runtime.policies.step_times import read_all_step_times, read_step_times
from runtime.profile.store import Store
from runtime.prompts import read_prompts
from runtime.replay.traces import read_traces
from runtime.report.reliability import read_reliability
from runtime.rows import read_rows
from runtime.stopper import history, progress
from runtime.stopper.stopper import Stopper

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CORPUS = Path(__file__).resolve().parent / "corpus"
"""Inputs that broke a reader once, a folder for each: they stay tried."""

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")
"""Audit events of code that reaches beyond the process."""


@dataclass(frozen=True)
class Reader:
    """One reader."""

    name: str
    """The file's name; the errors hold it."""
    read: Callable[[Path], object]
    """Reads the file at that path."""
    sample: Callable[[], bytes]
    """A file that is read without an error."""
    prepare: Callable[[Path], object] = lambda _: None
    """Lays what else the reader reads into the folder."""
    seal: str | None = None
    """Name of the package whose manifest is to vouch for the file, whatever it holds."""

    def lay_out(self, folder: Path, content: bytes) -> Path:
        """Write the file, and its manifest, into an empty folder."""
        self.prepare(folder)
        path = folder / self.name
        path.write_bytes(content)
        if self.seal:
            files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != MANIFEST_FILE}
            (folder / MANIFEST_FILE).write_bytes(manifest(self.seal, files))
        return path


class MisreadError(AssertionError):
    """A reader did what none may do."""


def attempt(reader: Reader, folder: Path, content: bytes) -> bool:
    """Let a reader read `content` in `folder`; return whether it took it.

    Raises:
        MisreadError: if it neither takes nor refuses it as a reader must.
    """
    path = reader.lay_out(folder, content)
    before = _contents(folder)
    _started.clear()
    try:
        reader.read(path)
        taken = True
    except SpeckvError as error:
        taken, text = False, str(error)
        if not text.isprintable() or len(text) > 2100:
            raise MisreadError(f"not one line: {text!r}") from error
        if reader.name not in text and folder.name not in text:
            raise MisreadError(f"names no file: {text}") from error
    if _started:
        raise MisreadError(f"started {_started}")
    if _contents(folder) != before:
        raise MisreadError("changed a file")
    return taken


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_started: list[str] = []


def _watch(event: str, _arguments: object) -> None:
    if event in STARTS:
        _started.append(event)


sys.addaudithook(_watch)


def _expect(right: bool, what: str) -> None:
    if not right:
        raise MisreadError(what)


def _pickle(path: Path) -> None:
    weights = read_weights(read_pickle(path))
    _expect(bool(np.isfinite(weights.W1).all()), "weights that are not finite")


def _decide(path: Path) -> None:
    decision = GammaSelector(path.parent).select((0.9, 0.82, 1.7, 0.55), "nf4")
    _expect(decision.gamma in PUBLISHED_CANDIDATES, f"gamma {decision.gamma}")
    _expect(
        bool(((decision.predicted_acceptance_rate >= 0) & (decision.predicted_acceptance_rate <= 1)).all()), "rates"
    )


def _stop(path: Path) -> None:
    stopper = Stopper(path.parent)
    stopper.begin_step([0.5] * (len(history.NAMES)))
    _expect(all(0 <= value <= 1 for value in stopper([0.5] * (len(progress.NAMES)))), "probabilities")


def _times(path: Path) -> None:
    read_all_step_times(path)
    times = read_step_times(path, "fp32", "eager")
    _expect(0 < times.step_ms(4) < 1e12, "a step that takes no time")


def _part(path: Path) -> None:
    store = Store(path.parent)
    store.part = lambda *_: path  # type: ignore[method-assign]
    list(store.read_parts("fp32", 1))


def _documents(path: Path) -> None:
    documents = Documents.load(path)
    _expect(sum(map(len, documents.sequences())) == len(documents.tokens), "tokens lost")


@cache
def target() -> PreTrainedModel:
    """The target that the golden drafters are for."""
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "target", dtype=torch.float32).eval()  # type: ignore[no-any-return]


def _drafter(path: Path) -> None:
    drafter = load_drafter(path.parent, target())
    _expect(all(bool(weight.isfinite().all()) for weight in drafter.parameters()), "weights that are not finite")


def _checkpoint(path: Path) -> None:
    load_checkpoint(path, {"seed": 1}, [make_student(target(), 1, 1e-3)])


def _profile(path: Path) -> None:
    read_profile(path.parent)
    Store(path.parent).begin(json.loads(path.read_bytes()))


def _golden(*names: str) -> Callable[[], bytes]:
    return GOLDEN.joinpath(*names).read_bytes


def _packaged(package: str, name: str) -> Callable[[Path], None]:
    """Lay the other files of a golden package beside the one that is read."""

    def prepare(folder: Path) -> None:
        for file in (GOLDEN / package).iterdir():
            if file.name != name:
                shutil.copy(file, folder)

    return prepare


def _documents_sample() -> bytes:
    file = io.BytesIO()
    np.savez(file, tokens=np.arange(9, dtype=np.int32), lengths=np.array([4, 5]), prompts=np.array([1, 0]))
    return file.getvalue()


@cache
def _checkpoint_sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder, "c.pt"), {"seed": 1}, Position(), [make_student(target(), 1, 1e-3)])
        return Path(folder, "c.pt").read_bytes()


RELIABILITY = {"performance": {"reliability": [{"predicted": 0.5, "observed": 0.4, "count": 3}]}}

READERS = {
    "pickle": Reader(PICKLE_FILE, _pickle, _golden("speckv-mlp16-1", PICKLE_FILE)),
    "weights": Reader(
        WEIGHTS_FILE,
        lambda path: Weights.from_npz(path.read_bytes()),
        _golden("speckv-mlp16-1", WEIGHTS_FILE),
    ),
    "decision": Reader(DECISION_FILE, _decide, _golden("speckv-mlp16-1", DECISION_FILE), seal=PACKAGE_NAME),
    "stopper": Reader(STOPPER_FILE, _stop, _golden("speckv-stopper-1", STOPPER_FILE), seal=STOPPER_NAME),
    "manifest": Reader(
        MANIFEST_FILE,
        lambda path: read_files(path.parent, DECISION_FILE),
        _golden("speckv-mlp16-1", MANIFEST_FILE),
        _packaged("speckv-mlp16-1", MANIFEST_FILE),
    ),
    "drafter": Reader(
        WEIGHTS,
        _drafter,
        _golden("drafter-1", WEIGHTS),
        _packaged("drafter-1", WEIGHTS),
        seal="speckv-drafter",
    ),
    "drafter-config": Reader(
        CONFIG_FILE,
        _drafter,
        _golden("drafter-1", CONFIG_FILE),
        _packaged("drafter-1", CONFIG_FILE),
        seal="speckv-drafter",
    ),
    "package-config": Reader(
        CONFIG_FILE, lambda path: read_reliability(path.parent.parent), lambda: json.dumps(RELIABILITY).encode()
    ),
    "traces": Reader("fp32.npz", read_traces, _golden("profile-1", "fp32.npz")),
    "verified": Reader(
        "fp32_verified.npz",
        lambda path: read_traces(path.with_name("fp32.npz")),
        _golden("profile-1", "fp32_verified.npz"),
        lambda folder: shutil.copy(GOLDEN / "profile-1" / "fp32.npz", folder),
    ),
    "seconds": Reader(
        "fp32_seconds.npz",
        lambda path: read_traces(path.with_name("fp32.npz")),
        _golden("profile-2", "fp32_seconds.npz"),
        lambda folder: shutil.copy(GOLDEN / "profile-2" / "fp32.npz", folder),
    ),
    "part": Reader("0000.npz", _part, _golden("profile-1", "parts", "fp32", "0000.npz")),
    "profile": Reader("manifest.json", _profile, _golden("profile-1", "manifest.json")),
    "step-times": Reader("step_times_ms.json", _times, _golden("profile-1", "step_times_ms.json")),
    "records": Reader("records.csv", lambda path: read_records([path]), _golden("profile-1", "records.csv")),
    "prompts": Reader("prompts.jsonl", read_prompts, lambda: b'{"task": "code", "prompt": "w5"}\n' * 3),
    "rows": Reader(
        "live.json",
        lambda path: read_rows(path, "bench"),
        lambda: b'{"kind": "bench", "rows": [{"device": "cpu", "precision": "fp16", "x": [1.5]}]}',
    ),
    "documents": Reader("text.npz", _documents, _documents_sample),
    "checkpoint": Reader("checkpoint.pt", _checkpoint, _checkpoint_sample),
}
