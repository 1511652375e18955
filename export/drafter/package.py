"""Writes a drafter as the folder that ships: weights, configuration, card, licence, manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from export.drafter.agreement import Agreement
from export.manifest import json_bytes, manifest
from export.package_folder import CARD_FILE, LICENSE_FILE, check_destination, replacing
from runtime.contract import CONFIG_FILE, MANIFEST_FILE
from runtime.pair.drafter import FORMAT_VERSION, SAMPLE_KEY, WEIGHTS_FILE, architecture, embedding_sample

PACKAGE_NAME = "speckv-drafter"
"""What the manifest calls such a package, whatever its target."""

SIZE_LIMIT = 16_000_000
"""Bytes of a package that may ship."""

FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, LICENSE_FILE, MANIFEST_FILE)
"""Everything a package folder holds."""

APACHE_TARGETS = ("HuggingFaceTB/SmolLM2-",)


@dataclass(frozen=True)
class Origin:
    """How a drafter was made, for its card and configuration."""

    target: str
    command: str
    seed: int
    device: str
    versions: str
    steps: int
    training_tokens: int
    corpus_tokens: int
    minutes: float


def write_package(
    folder: Path,
    stored: dict[str, Tensor],
    source_layers: list[int],
    target: PreTrainedModel,
    agreement: Agreement,
    origin: Origin,
) -> int:
    """Write the package beside `folder`, then put it in its place; return its size in bytes.

    Raises:
        SpeckvError: if `folder` holds anything but such a package, or cannot be written.
    """
    check_destination(folder, PACKAGE_NAME, FILES)
    parameters = sum(value.numel() for name, value in stored.items() if not name.endswith(".scale"))
    config = {
        "format_version": FORMAT_VERSION,
        "target": {"name": origin.target, "architecture": architecture(target)},
        "num_layers": len(source_layers),
        "source_layers": source_layers,
        "parameters": parameters,
        "storage": "matrices int8 with float16 scale per output row, vectors float16",
        "agreement": asdict(agreement),
        "training": asdict(origin),
    }
    files = {
        WEIGHTS_FILE: save({**stored, SAMPLE_KEY: embedding_sample(target)}, metadata={"format": "pt"}),
        CONFIG_FILE: json_bytes(config),
        CARD_FILE: model_card(config).encode(),
        LICENSE_FILE: licence(origin.target).encode(),
    }
    files[MANIFEST_FILE] = manifest(PACKAGE_NAME, files)
    with replacing(folder, PACKAGE_NAME, FILES) as staging:
        for name, data in files.items():
            (staging / name).write_bytes(data)
    return sum(map(len, files.values()))


def licence(target: str) -> str:
    """Return the licence text: a drafter is a derivative of its target."""
    notice = f"This drafter is derived from {target}: its layers began as copies of that model's.\n"
    if not target.startswith(APACHE_TARGETS):
        return notice + "The licence of that model applies.\n"
    text = resources.files("export.drafter").joinpath("LICENSE.apache-2.0").read_text(encoding="utf-8")
    return (
        notice + "SmolLM2 is published by Hugging Face under the Apache License 2.0, which applies here too.\n\n" + text
    )


def model_card(config: dict[str, Any]) -> str:
    """Return the card: Hub metadata, use, how it was made, and the measured figures of `config`."""
    training, agreement = config["training"], config["agreement"]
    rows = "\n".join(f"| {task} | {share:.3f} |" for task, share in agreement["tasks"].items())
    terms = "apache-2.0" if training["target"].startswith(APACHE_TARGETS) else "other"
    layers = ", ".join(str(layer) for layer in config["source_layers"])
    return f"""---
license: {terms}
base_model: {training["target"]}
tags:
- speculative-decoding
- draft-model
- distillation
library_name: speckv
---

# Drafter of {config["num_layers"]} layers for {training["target"]}

A draft model for speculative decoding: {config["num_layers"]} decoder layers and a final norm
({config["parameters"] / 1e6:.1f} M parameters). Embedding and head are the target's own and are not stored here, so the
folder is of use with that target alone; loading it onto another one is refused.

## Use

```python
from pathlib import Path
from runtime.pair.drafter import load_drafter

drafter = load_drafter(Path("."), target)  # target: the loaded transformers model, in any precision
```

## Measured

Top-1 agreement: share of the target's greedy tokens ({agreement["tokens"]:,} positions, at most 128 per prompt, prompts
held out from training) that are the drafter's most probable token. Measured on the weights stored here.

| prompts | agreement |
|---|---|
| all | **{agreement["overall"]:.3f}** |
{rows}

## How it was made

Layers {layers} of the target, trained with forward KL(target || drafter) over the whole vocabulary (AdamW, cosine
schedule over the time budget) on {training["training_tokens"] / 1e6:.1f} M predicted tokens in
{training["steps"]:,} steps, {training["minutes"]:.1f} minutes on {training["device"]} ({training["versions"]}).
The text ({training["corpus_tokens"] / 1e6:.1f} M predicted tokens): the target's own answers, greedy and sampled,
to prompts composed by this project and to user turns that the target wrote itself, and source code and documentation
found on the training machine.
No third-party data set. Seed {training["seed"]}.

```
{training["command"]}
```

Storage: {config["storage"]}.

## Licence

That of the target, {training["target"]} ({terms}), of which this is a derivative: see LICENSE.
"""
