"""The paper's policy table, recomputed from step records.

Every policy is scored as the paper scores it: by the shipped predictor's own expected tokens per step,
clip(rate, 0, 1) * gamma + 1 (SpecKV, Shukla 2026, tables 1 and 2), on held-out rows that the predictor was
refitted with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.ensemble import RandomForestRegressor

from export.predictor.fit import SEED, TEST_SHARE, Fit, fit_on, fit_predictor
from export.predictor.published_loop import Floats, Regressor, expected_tokens
from export.predictor.records import Records
from runtime.contract import PUBLISHED_CANDIDATES

Report = Callable[[str], None]

FIXED_GAMMA = 4
INTERVAL_RESAMPLES = 5_000
TEST_RESAMPLES = 10_000
RESAMPLED_VALUES = 4_000_000
"""Drawn values held in memory at a time: 32 MB."""

ORACLE_GAMMA = {
    ("fp16", "code"): 2, ("fp16", "math"): 4, ("fp16", "chat"): 2, ("fp16", "summarization"): 2,
    ("int8", "code"): 8, ("int8", "math"): 8, ("int8", "chat"): 6, ("int8", "summarization"): 6,
    ("nf4", "code"): 4, ("nf4", "math"): 6, ("nf4", "chat"): 4, ("nf4", "summarization"): 4,
}  # fmt: skip
"""Gamma of best measured throughput per compression and task.

Source: `results/phase2_optimal_gamma.csv` of github.com/Amorfati123/SpecKV. Other pairs take `FIXED_GAMMA`, as there.
"""


def evaluate(records: Records, report: Report) -> tuple[Fit, dict[str, Any], dict[str, Any]]:
    """Refit on `records` and score the policies.

    Args:
        records: checked step records.
        report: called with the name of each part as it begins.

    Returns:
        The fit, and the `training` and `performance` entries of a package's `config.json`.
    """
    report("fitting the predictor")
    fit = fit_predictor(records)
    report("fitting the reference forest")
    forest = fit_on(
        RandomForestRegressor(n_estimators=100, random_state=SEED), records.features, records.acceptance_rate
    )
    report("scoring the policies")
    best = best_fixed_gamma(records)
    tokens, chosen = policy_tokens(records, fit, forest, best)
    report("resampling the intervals")
    performance = {
        "held_out": {"mse": _figure(fit.mse), "correlation": _figure(fit.correlation)},
        "scored_rows": len(fit.test),
        "scored_by": "the predictor's own expected tokens per step; it was refitted with the scored rows",
        "tokens_per_step": {name: _policy_figures(values, records.compression[fit.test])
                            for name, values in tokens.items()},
        "by_task": _task_table(tokens, records, fit),
        "fixed_best_gamma": best,
        "speckv_over_fixed_4_percent": _figure(_improvement(tokens["SpecKV-fast"], tokens["Fixed-4"])),
        "paired_bootstrap": paired_bootstrap(tokens["SpecKV-fast"] - tokens["Fixed-4"]),
        "chosen_gamma": {str(gamma): int(np.sum(chosen == gamma)) for gamma in PUBLISHED_CANDIDATES},
    }  # fmt: skip
    return fit, _training(records, fit), performance


def best_fixed_gamma(records: Records) -> dict[str, int]:
    """Return, per compression, the gamma with the largest mean `tokens_produced` (the smaller one of equals)."""
    best = {}
    for compression in np.unique(records.compression):
        rows = records.compression == compression
        gamma, tokens = records.features[rows, 5], records.tokens_produced[rows]
        tried = np.unique(gamma)
        best[str(compression)] = int(tried[np.argmax([tokens[gamma == value].mean() for value in tried])])
    return best


def policy_tokens(
    records: Records, fit: Fit, forest: Regressor, best: dict[str, int]
) -> tuple[dict[str, Floats], npt.NDArray[np.int64]]:
    """Return expected tokens [t] of every policy on the held-out rows, and the gamma [t] that SpecKV-fast chose."""
    features = records.features[fit.test]
    kind = list(zip(records.compression[fit.test], records.task[fit.test], strict=True))
    oracle = np.array([ORACLE_GAMMA.get((str(c), str(t)), FIXED_GAMMA) for c, t in kind], dtype=np.float64)
    fixed_best = np.array([best[str(c)] for c, _ in kind], dtype=np.float64)
    mlp = fit.regressor
    fast = np.stack([expected_tokens(mlp, features, gamma) for gamma in PUBLISHED_CANDIDATES])
    accurate = np.stack([expected_tokens(forest, features, gamma) for gamma in PUBLISHED_CANDIDATES])
    tokens = {
        "Fixed-4": expected_tokens(mlp, features, FIXED_GAMMA),
        "Fixed-best": expected_tokens(mlp, features, fixed_best),
        "Task-oracle": expected_tokens(mlp, features, oracle),
        "SpecKV-fast": fast.max(axis=0),
        "SpecKV-accurate": accurate.max(axis=0),
    }
    return tokens, np.array(PUBLISHED_CANDIDATES)[fast.argmax(axis=0)]


def resampled_means(values: Floats, resamples: int) -> Floats:
    """Return the means [resamples] of bootstrap resamples of `values` [n], drawn in chunks that bound the memory."""
    generator = np.random.default_rng(SEED)
    chunk = max(1, RESAMPLED_VALUES // len(values))
    means = np.empty(resamples)
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        means[start:stop] = values[generator.integers(len(values), size=(stop - start, len(values)))].mean(axis=1)
    return means


def paired_bootstrap(difference: Floats) -> dict[str, Any]:
    """Test paired `difference` [n] > 0: p is the share of resampled means that are not."""
    means = resampled_means(difference, TEST_RESAMPLES)
    return {
        "compared": "SpecKV-fast - Fixed-4",
        "resamples": TEST_RESAMPLES,
        "mean_difference": _figure(difference.mean()),
        "p_value": _figure(np.mean(means <= 0)),
    }


def _policy_figures(values: Floats, compression: npt.NDArray[np.str_]) -> dict[str, Any]:
    low, high = np.percentile(resampled_means(values, INTERVAL_RESAMPLES), [2.5, 97.5])
    return {
        "mean": _figure(values.mean()),
        "low": _figure(low),
        "high": _figure(high),
        "by_compression": {str(name): _figure(values[compression == name].mean()) for name in np.unique(compression)},
    }


def _task_table(tokens: dict[str, Floats], records: Records, fit: Fit) -> list[dict[str, Any]]:
    kinds = np.stack([records.compression[fit.test], records.task[fit.test]], axis=1)
    table = []
    for compression, task in np.unique(kinds, axis=0):
        rows = (kinds == [compression, task]).all(axis=1)
        fixed, speckv = tokens["Fixed-4"][rows], tokens["SpecKV-fast"][rows]
        table.append({
            "compression": str(compression), "task": str(task),
            "fixed_4": _figure(fixed.mean()), "speckv": _figure(speckv.mean()),
            "improvement_percent": _figure(_improvement(speckv, fixed)),
        })  # fmt: skip
    return table


def _improvement(values: Floats, baseline: Floats) -> float:
    return float((values.mean() / baseline.mean() - 1) * 100)


def _training(records: Records, fit: Fit) -> dict[str, Any]:
    return {
        "records": len(records),
        "files": [asdict(file) for file in records.files],
        "published_records": records.published,
        "held_out_split": {
            "train": len(records) - len(fit.test), "test": len(fit.test), "test_size": TEST_SHARE,
            "random_state": SEED, "stratified_by": "compression and task",
        },
        "regressor": str(fit.regressor),
        "fitted_on": "all records",
        "iterations": int(fit.regressor.n_iter_),
        "scikit_learn": sklearn.__version__,
    }  # fmt: skip


def _figure(value: float | np.floating[Any]) -> float:
    """Return `value` to ten decimals: further ones differ between processors, fewer would be rounded twice in print."""
    return round(float(value), 10)
