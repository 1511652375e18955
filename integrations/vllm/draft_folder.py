"""A draft that lives on its target's embedding and head, written out as a model folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from runtime.errors import SpeckvError


def export_draft(output: Path, target: str | None, draft: str | None) -> None:
    """Write draft, tokenizer and chat template as a folder that any engine loads, in half precision.

    Args:
        output: a new or empty folder.
        target: Hub id or folder; by default SmolLM2-135M-Instruct.
        draft: folder of a drafter package, or `early-exit[:LAYERS]`; by default the drafter that ships.

    Raises:
        SpeckvError: if the folder holds something, or the draft cannot be loaded.
    """
    from runtime.pair.draft import check_draft, load_draft
    from runtime.pair.target import load_target

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SpeckvError(f"{output} exists and is not an empty folder: give another --output")
    check_draft(draft, target)
    loaded = load_target(target, "fp16", "cpu")
    model = load_draft(draft, loaded)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed: an interruption leaves no half folder behind its name.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        model.save_pretrained(unfinished)
        loaded.tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)  # mkdtemp's folder is the user's alone
        unfinished.replace(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
