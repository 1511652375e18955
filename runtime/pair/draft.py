"""Loading the draft, and checking that it speaks the target's vocabulary."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from runtime.artifacts import package_folder
from runtime.errors import SpeckvError
from runtime.hub import is_repo_id, package_from
from runtime.pair.drafter import FILES, WEIGHTS_FILE, load_drafter
from runtime.pair.early_exit import early_exit
from runtime.pair.embedded import HUB_ID
from runtime.pair.target import Target, load_model, load_tokenizer

EMBEDDED_DRAFTER = "smollm2-drafter"
EARLY_EXIT = "early-exit"
EARLY_EXIT_SHARE = 3
"""An early-exit draft takes one in this many of the target's layers unless told otherwise."""


def check_draft(name: str | None, target: str | None) -> None:
    """Refuse a draft that cannot be meant, before any model is loaded; the arguments are names, None the defaults.

    Raises:
        SpeckvError: saying why.
    """
    if name is None and target not in (None, HUB_ID):
        raise SpeckvError(
            f"no draft ships for target '{target}': give --draft a model of its tokenizer, or {EARLY_EXIT}"
        )
    if name is not None and not name.strip():
        raise SpeckvError("the draft's name is empty: give a Hub id, a folder, or early-exit")
    kind, colon, layers = (name or "").partition(":")
    if kind == EARLY_EXIT and colon and not (layers.isascii() and layers.isdecimal()):
        raise SpeckvError(f"draft '{name}': write {EARLY_EXIT}:LAYERS with a number of layers")


def load_draft(name: str | None, target: Target) -> PreTrainedModel:
    """Load a draft for `target`, on its device.

    Args:
        name: Hub id or folder, of a model or of a drafter package; or `early-exit[:LAYERS]`, the target's own first
            layers. By default the drafter that ships for SmolLM2-135M-Instruct.
        target: the loaded target.

    Raises:
        SpeckvError: if there is no such model, or it does not fit the target.
    """
    check_draft(name, target.name)
    name = name or str(package_folder(EMBEDDED_DRAFTER))
    kind, _, layers = name.partition(":")
    if kind == EARLY_EXIT:
        depth = target.model.config.get_text_config().num_hidden_layers
        return early_exit(target.model, int(layers) if layers else max(1, depth // EARLY_EXIT_SHARE))
    package = _drafter_package(name)
    if package is not None:
        return load_drafter(package, target.model)
    check_vocabulary(name, target)
    device = target.model.get_input_embeddings().weight.device
    return load_model(name, "fp16" if device.type == "cuda" else "fp32", str(device))


def _drafter_package(name: str) -> Path | None:
    """Return the local folder of a drafter package; None if it is another model's name."""
    folder = package_from(name, None, FILES) if is_repo_id(name) else Path(name)
    return folder if (folder / WEIGHTS_FILE).is_file() else None


def check_vocabulary(name: str, target: Target) -> None:
    """Refuse a draft whose token ids do not mean what the target's mean.

    Raises:
        SpeckvError: naming the first difference.
    """
    ours, theirs = target.tokenizer.get_vocab(), load_tokenizer(name).get_vocab()
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        difference = f"{len(theirs)} tokens against {len(ours)}"
    else:
        token = next(token for token in ours if theirs.get(token) != ours[token])
        difference = f"token {token!r} is {theirs.get(token)} against {ours[token]}"
    raise SpeckvError(
        f"draft '{name}' and target '{target.name}' have different vocabularies ({difference}): "
        "speculative decoding needs one tokenizer for both"
    )
