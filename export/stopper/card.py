"""The model card of the acceptance model, from the figures in `config.json`."""

from __future__ import annotations

from typing import Any

from runtime.contract import STOPPER_FILE

USAGE = f"""\
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession("{STOPPER_FILE}", providers=["CPUExecutionProvider"])
features = np.zeros((1, model.get_inputs()[0].shape[1]), dtype=np.float32)  # in the order of config.json
(probabilities,) = model.run(None, {{"features": features}})
print(probabilities[0])  # the last drafted token stands; the next one will
"""


def model_card(config: dict[str, Any]) -> str:
    """Return the README.md of a package with this `config.json`, with the Hugging Face Hub's YAML header."""
    return "\n".join([_introduction(config), _contract(config), _measured(config), _origin(config)])


def _introduction(config: dict[str, Any]) -> str:
    shape = "-".join(str(width) for width in config["architecture"]["layers"])
    return f"""\
---
license: mit
library_name: onnx
pipeline_tag: tabular-classification
tags:
- speculative-decoding
- onnx
---

# {config["model_name"]}

A {shape} perceptron ({config["architecture"]["parameters"]:,} parameters) that says how probably the tokens drafted so
far in a step of speculative decoding will stand verification, and the next one too: what the `adaptive` policy weighs
against time. One ONNX call per decision, for any engine in any language.

## Use

```python
{USAGE}```

`runtime/stopper/` computes the features from what a loop knows: `history.py` those that stay the same while a step
drafts, `progress.py` those that change with every token.
"""


def _contract(config: dict[str, Any]) -> str:
    names = "\n".join(f"{place}. `{name}`" for place, name in enumerate(config["input_features"]["order"]))
    return f"""\
## Contract

Input `features`, float32 `[batch, {len(config["input_features"]["order"])}]`, raw (the standardisation is in the
weights); output `probabilities`, float32 `[batch, 2]`. {config["input_features"]["units"].capitalize()}.

{names}
"""


def _measured(config: dict[str, Any]) -> str:
    performance = config["performance"]
    signals = [row["signals"] for row in performance["signals"]]
    lines = [("", *signals), ("---", *["--:"] * len(signals)), *measured_lines(performance)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""\
## Measured

Cross-validation in {performance["folds"]} folds, the texts of a prompt in one fold. Log-loss in nats a decision,
altered pairs included; calibration error as the mean difference of predicted and observed shares; then, for each file
of traces and kind of step times, the tokens per second of the `adaptive` policy in replay over those of the best fixed
gamma in hindsight (the policy's own time not counted).

{table}

The graph differs from the weights by at most {performance["parity"]:.2g}.
"""


def measured_lines(performance: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of the cross-validation, one line per measure and one column per set of signals."""
    rows = performance["signals"]
    lines = [
        ("log-loss, last token", *(f"{row['log_loss'][0]:.4f}" for row in rows)),
        ("log-loss, next token", *(f"{row['log_loss'][1]:.4f}" for row in rows)),
        ("calibration error", *(f"{row['calibration_error']:.4f}" for row in rows)),
    ]
    for place, name in enumerate(performance["replayed"]):
        lines.append((name, *(f"{row['ratios'][place]:.3f}" for row in rows)))
    return lines


def _beside(source: dict[str, Any]) -> str:
    """Name the file of what verification left behind, where the package does."""
    sha256 = source.get("verified_sha256")
    return f"; what verification left behind, SHA-256 {sha256}" if sha256 else ""


def _origin(config: dict[str, Any]) -> str:
    training = config["training"]
    sources = "\n".join(
        f"- {source['file']}: {source['texts']} texts, SHA-256 {source['sha256']}{_beside(source)}"
        for source in training["traces"]
    )
    return f"""\
## How it was made

`python -m export stopper`, seed {training["seed"]}, {training["decisions"]:,} decisions of these traces, walked with
random step lengths, a part of them altered into worse and better pairs:

{sources}
"""
