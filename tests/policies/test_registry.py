"""Policies by name, and what is said of a name that is none."""

from __future__ import annotations

import pytest

from runtime import SpeckvError
from runtime.policies.registry import NAMES, TIMED, make_policy
from runtime.policies.step_times import StepTimes

TIMES = StepTimes({1: 1.0}, {1: 4.0})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("none", "none"),
        ("fixed:7", "fixed:7"),
        ("speckv", "speckv"),
        ("speckv-cost", "speckv-cost"),
        ("confidence", "confidence:0.4"),
        ("confidence:0.6", "confidence:0.6"),
        ("heuristic", "heuristic"),
        ("svip", "svip:0.3"),
        ("adaedl:0.7", "adaedl:0.7"),
        ("specdec++", "specdec++:0.7"),
        ("throughput", "throughput"),
        ("moving-average", "moving-average"),
        ("bandit", "bandit"),
        ("adaptive", "adaptive"),
    ],
)
def test_every_name_is_a_policy(given: str, name: str) -> None:
    assert make_policy(given, "fp16", TIMES).name == name
    assert given.partition(":")[0] in NAMES


@pytest.mark.parametrize(
    "name", ["", "magic", "fixed", "fixed:", "fixed:-1", "fixed:²", "none:1", "heuristic:2", "oracle"]
)
def test_another_name_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(SpeckvError, match="confidence"):
        make_policy(name, "fp16", TIMES)


@pytest.mark.parametrize("name", ["confidence:", "svip:high", "adaedl:1.1", "specdec++:nan", "svip:-0.1"])
def test_a_threshold_is_a_number_from_0_to_1(name: str) -> None:
    with pytest.raises(SpeckvError, match="threshold"):
        make_policy(name, "fp16")


@pytest.mark.parametrize("name", TIMED)
def test_without_step_times_the_policies_that_need_none_are_named(name: str) -> None:
    with pytest.raises(SpeckvError, match="step times: choose from none, fixed:N, speckv") as error:
        make_policy(name, "fp16")
    assert "bandit" not in str(error.value).partition("choose from")[2]


@pytest.mark.parametrize("length", ["1048577", "99999999999999999999", "9" * 5000])
def test_a_length_that_no_step_drafts_is_refused(length: str) -> None:
    with pytest.raises(SpeckvError, match="at most 1048576 tokens, choose fewer"):
        make_policy(f"fixed:{length}", "fp16")
    assert make_policy("fixed:" + "0" * 5000 + "7", "fp16").name == "fixed:7"
