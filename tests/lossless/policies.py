"""Every policy that there is, as a test may ask it: none is told what its steps took, so all decide alike anywhere."""

from __future__ import annotations

from collections.abc import Callable

from runtime.policies import registry
from runtime.policies.policy import Policy
from runtime.policies.registry import make_policy
from tests.loop.fakes import Erratic, StopWhenUnsure, Untimed
from tests.policies.pairs import GRAPH

REGISTRY = (
    *("none", "fixed:1", "fixed:3", "fixed:7", "speckv", "heuristic", "moving-average"),
    *("confidence:0.3", "svip:0.5", "adaedl:0.3", "specdec++:0.9"),
    *("adaptive", "speckv-cost", "throughput", "bandit"),
)
"""At thresholds where a tiny random pair now stops early and now does not."""
assert {name.partition(":")[0] for name in REGISTRY} == {"fixed", "speckv"} | {
    *registry.PLAIN,
    *registry.THRESHOLD,
    *registry.TIMED,
}

POLICIES: dict[str, Callable[[], Policy]] = {
    **{name: lambda name=name: Untimed(make_policy(name, "fp16", GRAPH)) for name in REGISTRY},
    "signal": lambda: StopWhenUnsure(threshold=0.5, cap=5),
    "erratic": Erratic,
}
