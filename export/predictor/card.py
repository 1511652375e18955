"""The model card: what the package is, how to call it, and what was measured, from the figures in `config.json`."""

from __future__ import annotations

from typing import Any

from runtime.contract import COMPRESSION_CODES, DECISION_FILE, PREDICTOR_FILE, SIGNALS

USAGE = f"""\
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime

decision = onnxruntime.InferenceSession("{DECISION_FILE}", providers=["CPUExecutionProvider"])
gamma, expected_tokens, rate = decision.run(
    None,
    {{
        "signals": np.array([[2.0172, 0.6549, 2.956, 0.4504]], dtype=np.float32),
        "comp_enc": np.array([0], dtype=np.int64),  # fp16
        "candidates": np.array([2, 4, 6, 8], dtype=np.int64),
        "step_cost": np.ones(4, dtype=np.float32),
    }},
)
print(gamma[0], expected_tokens[0], rate[0])
"""


def model_card(config: dict[str, Any], published: bool) -> str:
    """Return the README.md of a package with this `config.json`, with the Hugging Face Hub's YAML header."""
    sections = [_header(config, published), _introduction(config), _use(), _contract(config), _files(config)]
    measured = _measured(config) if config["performance"] else _not_measured()
    return "\n".join([*sections, measured, _origin(config, published)])


def _header(config: dict[str, Any], published: bool) -> str:
    lines = ["---", f"license: {'mit' if published else 'other'}", "library_name: onnx",
             "pipeline_tag: tabular-regression", "tags:", "- speculative-decoding", "- onnx"]  # fmt: skip
    if config["performance"]:
        held_out = config["performance"]["held_out"]
        lines += ["model-index:", f"- name: {config['model_name']}", "  results:", "  - task:",
                  "      type: tabular-regression", "    dataset:", "      name: speculative decoding step records",
                  "      type: step-records", "    metrics:",
                  "    - type: mse", "      name: held-out mean squared error", f"      value: {held_out['mse']}",
                  "    - type: pearsonr", "      name: held-out correlation",
                  f"      value: {held_out['correlation']}"]  # fmt: skip
    return "\n".join([*lines, "---", ""])


def _introduction(config: dict[str, Any]) -> str:
    shape = "-".join(str(width) for width in config["architecture"]["layers"])
    return f"""\
# {config["model_name"]}

A {shape} perceptron that predicts how many drafted tokens a speculative decoding step will have accepted, from what the
draft model already knows, and the choice of the speculation length `gamma` that follows from it
([SpecKV]({config["paper"]})), as two ONNX graphs for any engine in any language.
"""


def _use() -> str:
    return f"""\
## Use

`pip install -r requirements.txt`, then in this folder:

```python
{USAGE}```
"""


def _contract(config: dict[str, Any]) -> str:
    codes = ", ".join(f"{name} = {code}" for name, code in COMPRESSION_CODES.items())
    candidates = ", ".join(str(gamma) for gamma in config["output"]["candidates"])
    return f"""\
`{DECISION_FILE}`, the whole decision. Nothing has a default inside the graph.

| input | type | meaning |
|---|---|---|
| `signals` | float32 [batch, 4] | {", ".join(f"`{name}`" for name in SIGNALS)}; entropies in bits |
| `comp_enc` | int64 [batch] | precision of the target: {codes} |
| `candidates` | int64 [k] | the lengths to choose from; published: {candidates} |
| `step_cost` | float32 [k] | cost of a step of each length; published: ones; better: measured step times |

| output | type | meaning |
|---|---|---|
| `gamma` | int64 [batch] | the first candidate with the largest `expected_tokens / step_cost` |
| `expected_tokens` | float32 [batch, k] | rate · candidate + 1 |
| `predicted_acceptance_rate` | float32 [batch, k] | clipped to [0, 1] |

`{PREDICTOR_FILE}`, the regressor alone: `features` float32 [batch, 6]
({", ".join(config["input_features"]["order"])})
to `predicted_acceptance_rate` float32 [batch, 1], not clipped. Both graphs compute in float64, as the regressor does.
"""


def _files(config: dict[str, Any]) -> str:
    rows = "\n".join(f"| `{name}` | {purpose} |" for name, purpose in config["files"].items())
    return f"## Files\n\n| file | what it is |\n|---|---|\n{rows}\n"


def _measured(config: dict[str, Any]) -> str:
    figures, training = config["performance"], config["training"]
    split, held_out = training["held_out_split"], figures["held_out"]
    rows = "\n".join(
        f"| {name} | {policy['mean']:.3f} | {policy['low']:.3f} to {policy['high']:.3f} |"
        for name, policy in figures["tokens_per_step"].items()
    )
    return f"""\
## What was measured

Fitted on {training["records"]:,} step records. A regressor fitted on {split["train"]:,} of them predicts the other
{split["test"]:,} with a mean squared error of {held_out["mse"]:.5f} and a correlation of {held_out["correlation"]:.5f}.

| policy | expected tokens per step | 95 % bootstrap interval |
|---|---|---|
{rows}

{_caveats(figures)}
"""


def _caveats(figures: dict[str, Any]) -> str:
    means = {name: policy["mean"] for name, policy in figures["tokens_per_step"].items()}
    chosen = figures["chosen_gamma"]
    favourite = max(chosen, key=lambda gamma: chosen[gamma])
    share = chosen[favourite] / figures["scored_rows"]
    fixed = ", ".join(f"{gamma} for {name}" for name, gamma in figures["fixed_best_gamma"].items())
    percent = figures["speckv_over_fixed_4_percent"]
    gain, fixed_gain = means["SpecKV-fast"] - means["Fixed-4"], means["Fixed-best"] - means["Fixed-4"]
    part = f"{fixed_gain / gain:.1%} of the gain over fixed-4 needs no predictor" if gain > 0 else "there is no gain"
    return f"""\
How to read these figures:

- SpecKV-fast is this predictor. It picks gamma = {favourite} on {share:.0%} of the steps and gives
  {means["SpecKV-fast"]:.3f} tokens per step, {percent:+.2f} % over fixed-4. Fixed-best, the best constant
  ({fixed}), gives {means["Fixed-best"]:.3f}: {part}.
- Every policy is scored by the predictor's own output (SpecKV-accurate by a random forest's), on a predictor refitted
  with the scored rows. None of these is a count of tokens that a model produced.
- The signals are those of the very tokens whose number is being chosen. A live loop does not have them beforehand: it
  drafts a few tokens first and decides on those.
- More tokens per step are not more tokens per second. Pass measured step times as `step_cost`."""


def _not_measured() -> str:
    return """\
## What was measured

Nothing: this package was converted from a pickle, and a pickle does not say how well it predicts. All files compute the
same as the pickled regressor; whether that is any good was not measured.
"""


def _origin(config: dict[str, Any], published: bool) -> str:
    if published:
        source = "[github.com/Amorfati123/SpecKV](https://github.com/Amorfati123/SpecKV)"
        origin = f"The records are the SpecKV paper's ({source},\nMIT, Copyright (c) 2026 Shikhar Shukla)."
    else:
        origin = "The weights come from a pickle or from records of whoever ran the export."
    return f"""\
## Origin and license

{origin}
See `LICENSE`. Made by [speckv]({config["repository"]}) with `python -m export`,
which compares every file with the regressor before it writes any; `MANIFEST.json` holds the hashes.

Paper: Shukla, *SpecKV*, 2026, [arXiv 2605.02888]({config["paper"]}).
"""
