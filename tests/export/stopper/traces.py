"""Small traces of a made-up pair: tokens that agree with a chance that the draft's confidence tells of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.replay.traces import LOOKAHEAD, Text, read_traces

STEP_TIMES = {
    "draft": {"eager1": 5.0, "graph1": 0.5, "graph2": 0.6},
    "fp16": {"eager1": 21.0, "eager17": 26.0, "graph1": 3.2, "graph17": 4.1},
    "nf4": {"eager1": 28.0, "eager17": 33.0},
}


def trace(positions: int, random: np.random.Generator) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return one text's arrays `[positions, 16, 4]` and `[positions, 3]`, as `runtime profile` writes them."""
    top1 = random.uniform(0.1, 1, (positions, LOOKAHEAD))
    agree = (random.random((positions, LOOKAHEAD)) < top1).cumprod(1)
    agree *= np.arange(LOOKAHEAD) < positions - np.arange(positions)[:, None]  # nothing agrees beyond the end
    rollouts = np.stack([agree, 6 * (1 - top1), top1, (1 - top1) / 2], 2)
    verified = np.stack(
        [random.uniform(0, 6, positions), random.uniform(0.1, 1, positions), random.random(positions)], 1
    )
    return rollouts.astype(np.float16), verified.astype(np.float16)


def write_traces(path: Path, prompts: int, seed: int, positions: int = 24, verified: bool = True) -> Path:
    """Write traces of texts of about so many positions, and what verification left beside them."""
    random = np.random.default_rng(seed)
    keys = [f"{place}_{('code', 'chat')[place % 2]}" for place in range(prompts)]
    arrays = [trace(int(random.integers(positions // 2, positions + 1)), random) for _ in keys]
    np.savez(path, **{key: rollouts for key, (rollouts, _) in zip(keys, arrays, strict=True)})
    if verified:
        beside = path.with_name(f"{path.stem}_verified.npz")
        np.savez(beside, **{key: rows for key, (_, rows) in zip(keys, arrays, strict=True)})
    return path


def write_step_times(path: Path) -> Path:
    path.write_text(json.dumps(STEP_TIMES), encoding="utf-8")
    return path


def made_texts(folder: Path, prompts: int = 6, seed: int = 0, positions: int = 24, verified: bool = True) -> list[Text]:
    return read_traces(write_traces(folder / f"fp16_{seed}.npz", prompts, seed, positions, verified))
