"""Opening an ONNX graph through onnxruntime: private, single-threaded, on the provider that was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runtime.decision.structure import read_graph
from runtime.errors import SpeckvError
from runtime.manifest import read_files

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry switched off.

    Linux wheels from 1.29 on send telemetry unless this variable is set before the import. It is set
    unconditionally: a portable package must not phone home.

    Raises:
        SpeckvError: if onnxruntime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise SpeckvError(
            f"onnxruntime cannot be imported ({error}): `pip install speckv[cpu]`, or speckv[gpu] for CUDA (not both)"
        ) from error
    return onnxruntime


def open_packaged(package: Path, name: str, provider: str) -> Any:
    """Open the graph `name` of a package as `open_session` does, after comparing it with the package's manifest.

    Raises:
        SpeckvError: as `runtime.manifest.read_files` and `open_session` do, or if the graph, sealed or not, is not one
            of this format.
    """
    (content,) = read_files(package, name)
    read_graph(package / name, content)  # refuses what is not of this format
    return _session(package / name, content, provider)


def open_session(graph: Path, provider: str) -> Any:
    """Open `graph` on `provider` ("cpu" or "cuda") as an `onnxruntime.InferenceSession`.

    Raises:
        SpeckvError: if the file cannot be read as a graph, or CUDA was asked for and cannot be had.
    """
    if not graph.is_file():
        raise SpeckvError(f"{graph}: no such file: run `python -m export` or reinstall speckv")
    return _session(graph, graph.read_bytes(), provider)


def _session(graph: Path, content: bytes, provider: str) -> Any:
    """Open what was read from `graph`, so that no other bytes than the checked ones are run.

    A decision is a handful of tiny operators, so one thread is fastest; on CUDA, TF32 is off because it moves the
    predicted rate by 1e-4.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # every failure comes back as an exception; the log would only repeat it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted: list[Any] = [PROVIDERS["cpu"]]
    if provider == "cuda":
        _require_cuda_build(onnxruntime)
        wanted.insert(0, (PROVIDERS["cuda"], {"use_tf32": "0"}))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=wanted)
    except Exception as error:  # onnxruntime raises its own unrelated exception types
        raise SpeckvError(f"{graph}: onnxruntime {onnxruntime.__version__} cannot load it: {_line(error)}") from error
    # A CUDA session that cannot be made falls back to the CPU without an error.
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise SpeckvError(
            f"CUDA was asked for, but onnxruntime {onnxruntime.__version__} fell back to the CPU: its CUDA or cuDNN "
            'libraries were not found. Import torch first or install them, or use providers="cpu"'
        )
    return session


def _require_cuda_build(onnxruntime: Any) -> None:
    available = onnxruntime.get_available_providers()
    if PROVIDERS["cuda"] not in available:
        raise SpeckvError(
            f"CUDA was asked for, but onnxruntime {onnxruntime.__version__} is a build without it (it offers "
            f'{", ".join(available)}): replace onnxruntime by speckv[gpu], or use providers="cpu"'
        )
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: finds the CUDA libraries that torch's wheels bring
        onnxruntime.preload_dlls()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
