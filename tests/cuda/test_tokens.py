"""Reading tokens and signals, accepting, and the distance, against the plain loop's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from runtime.cuda.mailbox import UNWRITTEN
from runtime.cuda.pair import RESTS
from runtime.cuda.tokens import CHUNK, RESULT, TOLD, accept, chunks, distance, read
from runtime.loop.accept import accept_greedy, left_behind, verified_signals
from runtime.loop.propose import token_signals

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_host(*shape: int) -> Tensor:
    """Return what a kernel has to write, all of it."""
    return torch.full(shape, UNWRITTEN, pin_memory=DEVICE == "cuda")


def told(host: Tensor) -> Tensor:
    """Wait for what was written."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    assert not (host == UNWRITTEN).any()
    return host


def read_rows(logits: Tensor) -> tuple[Tensor, Tensor]:
    rows, vocabulary = logits.shape
    parts = torch.empty(rows * chunks(vocabulary) * 6, device=DEVICE)
    arrived = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    tokens = torch.empty(rows, dtype=torch.int32, device=DEVICE)
    signals = torch.empty(rows, 5, device=DEVICE)
    read(logits, parts, arrived, tokens, signals)
    assert not arrived.any()
    return tokens, signals


@pytest.mark.parametrize("vocabulary", [37, CHUNK, 3 * CHUNK + 5])
def test_signals_are_those_of_the_plain_loop(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, vocabulary, device=DEVICE) * torch.tensor([[0.1], [3.0], [20.0]], device=DEVICE)
    tokens, signals = read_rows(logits)
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(signals[:, :3], token_signals(logits), rtol=1e-4, atol=1e-5)
    assert signals[:, 3].tolist() == tokens.tolist()
    torch.testing.assert_close(signals[:, 4], logits.logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [0.0, math.nan, math.inf, -2.0])
@pytest.mark.parametrize("vocabulary", [37, 2 * CHUNK + 5])
def test_the_host_is_told_the_same_whatever_the_logits(vocabulary: int, number: float) -> None:
    """ln Σ exp(logit) of one of them is -2, which the host would take for a number that is yet to come."""
    logits = torch.full((2, vocabulary), -1e30, device=DEVICE)
    logits[:, 3] = torch.tensor([5.0, number])
    parts = torch.empty(2 * chunks(vocabulary) * 6, device=DEVICE)
    arrived, tokens = torch.zeros(2, 2, dtype=torch.int32, device=DEVICE)
    signals, host = torch.empty(2, 5, device=DEVICE), on_host(2, TOLD)
    read(logits, parts, arrived, tokens, signals, host=host)
    expected = torch.cat([signals[:, : TOLD - 1].cpu(), torch.full((2, 1), math.nan)], 1)  # nothing is foreseen
    torch.testing.assert_close(told(host), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("vocabulary", [37, 3 * CHUNK + 5])
@pytest.mark.parametrize(("scale", "middle"), [(0.1, 0.0), (3.0, -40.0), (20.0, 0.0), (30.0, 80.0)])
def test_no_digits_of_the_entropy_are_lost(scale: float, middle: float, vocabulary: int) -> None:
    """That of a nearly certain distribution is small, while its logits are not: against float64, on either loop."""
    torch.manual_seed(1)
    logits = torch.randn(4, vocabulary, device=DEVICE) * scale + middle
    p = torch.softmax(logits.double(), -1)
    exact = (torch.special.entr(p).sum(-1) / math.log(2)).float()
    for found in (read_rows(logits)[1][:, 0], token_signals(logits)[:, 0]):
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=3e-6)


def test_the_first_of_equal_logits_and_masked_ones() -> None:
    logits = torch.full((1, 2 * CHUNK), -1e30, device=DEVICE)
    logits[0, [CHUNK - 1, CHUNK, CHUNK + 7]] = 1.0
    tokens, signals = read_rows(logits)
    assert tokens.tolist() == [CHUNK - 1]
    torch.testing.assert_close(signals[0, :3].cpu(), torch.tensor([1.5850, 1 / 3, 1 / 3]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocabulary", [37, CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize("equal", [False, True])
def test_the_second_choice_is_the_likeliest_of_the_others(vocabulary: int, equal: bool) -> None:
    torch.manual_seed(vocabulary)
    logits = torch.randn(4, vocabulary, device=DEVICE)
    if equal:
        logits[:] = 0.0
        logits[:, [3, vocabulary - 1]] = 1.0
    parts = torch.empty(4 * chunks(vocabulary) * 6, device=DEVICE)
    arrived, tokens = torch.zeros(2, 4, dtype=torch.int32, device=DEVICE)
    text, seconds = torch.zeros(2, 4, 20, dtype=torch.int32, device=DEVICE)
    starts = torch.tensor([0, 3, 7, 2], dtype=torch.int32, device=DEVICE)
    read(logits, parts, arrived, tokens, torch.empty(4, 5, device=DEVICE), (text, seconds, starts, 2))
    best = logits.topk(2).indices.sort().values if equal else logits.topk(2).indices
    rows = torch.arange(4, device=DEVICE)
    assert text[rows, starts.long() + 2].tolist() == best[:, 0].tolist()
    assert seconds[rows, starts.long() + 2].tolist() == best[:, 1].tolist()
    assert (text != 0).sum() == (best[:, 0] != 0).sum()
    assert (seconds != 0).sum() == (best[:, 1] != 0).sum()


@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_accepting_is_that_of_the_plain_loop(wrong: int) -> None:
    torch.manual_seed(wrong)
    texts, width, vocabulary, slots = 2, 5, 50, 6
    logits, drafted = (
        torch.randn(texts * width, vocabulary, device=DEVICE),
        torch.randn(slots, texts, 50, device=DEVICE),
    )
    best, signals = read_rows(logits)
    _, draft_signals = read_rows(drafted.view(-1, vocabulary))
    gammas = torch.tensor([4, 3], dtype=torch.int32, device=DEVICE)
    starts = torch.tensor([7, 2], dtype=torch.int32, device=DEVICE)
    text = torch.zeros(texts, 20, dtype=torch.int32, device=DEVICE)
    for row, (start, gamma) in enumerate(zip(starts.tolist(), gammas.tolist(), strict=True)):
        text[row, start + 1 : start + 1 + gamma] = best.view(texts, width)[row, :gamma]
        if wrong < gamma:
            text[row, start + 1 + wrong] = (best.view(texts, width)[row, wrong] + 1) % vocabulary
    before, results = text.clone(), torch.empty(texts, RESULT, device=DEVICE)
    host = on_host(texts, RESULT)
    first = starts.tolist()
    accept(text, starts, gammas, width, best, signals, results)
    parts = torch.empty(texts * chunks(vocabulary), device=DEVICE)
    arrived = torch.zeros(texts, dtype=torch.int32, device=DEVICE)
    distance(logits, signals, width, drafted, draft_signals.view(slots, texts, 5), results, host, parts, arrived)
    assert not arrived.any()
    results = told(host)
    for row, (start, gamma) in enumerate(zip(first, gammas.tolist(), strict=True)):
        own = logits.view(texts, width, -1)[row, : gamma + 1]
        proposed = before[row, start + 1 : start + 1 + gamma].long()
        accepted, token = accept_greedy(own, proposed)
        assert results[row, :2].tolist() == [accepted, token]
        assert results[row, 5] == -1
        assert starts[row] == start + accepted + 1
        assert text[row, start + accepted + 1] == token
        expected = left_behind(own, [*drafted[:gamma, row, None]], accepted).cpu()
        torch.testing.assert_close(results[row, 2:5], expected, rtol=1e-4, atol=1e-5, equal_nan=True)
        if accepted < gamma:
            apart = verified_signals(own[accepted][None], drafted[accepted, row][None])[0, 2].cpu()
            torch.testing.assert_close(results[row, 4], apart, rtol=1e-4, atol=1e-5)


def test_a_text_that_rests_is_left_as_it_is() -> None:
    texts, width, vocabulary = 3, 2, 50
    best, signals = read_rows(torch.randn(texts * width, vocabulary, device=DEVICE))
    gammas = torch.tensor([-1, 1, -1], dtype=torch.int32, device=DEVICE)
    starts = torch.tensor([3, 4, 5], dtype=torch.int32, device=DEVICE)
    text = torch.full((texts, 10), vocabulary, dtype=torch.int32, device=DEVICE)
    results = torch.zeros(texts, RESULT, device=DEVICE)
    accept(text, starts, gammas, width, best, signals, results)
    assert starts.tolist() == [3, 5, 5]
    assert text[1, 5] == best[2]
    assert (text != vocabulary).sum() == 1
    parts = torch.empty(texts * chunks(vocabulary), device=DEVICE)
    drafted = torch.zeros(1, texts, vocabulary, device=DEVICE), torch.zeros(1, texts, 5, device=DEVICE)
    arrived = torch.zeros(texts, dtype=torch.int32, device=DEVICE)
    host = on_host(texts, RESULT)
    distance(torch.zeros(6, 50, device=DEVICE), signals, width, *drafted, results, host, parts, arrived)
    assert told(host)[[0, 2], 0].tolist() == [RESTS, RESTS]
    assert host[[0, 2], 4].isnan().all()


@pytest.mark.parametrize("vocabulary", [37, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize("kind", ["all", "one", "first", "infinite", "overflown"])
def test_logits_that_are_no_numbers_give_a_token_and_say_so(kind: str, vocabulary: int) -> None:
    logits = torch.randn(1, vocabulary, device=DEVICE)
    where = {"all": slice(None), "one": vocabulary // 2, "first": 0, "infinite": 5, "overflown": slice(3, 9)}[kind]
    logits[0, where] = torch.inf if kind in ("infinite", "overflown") else torch.nan
    tokens, signals = read_rows(logits)
    assert 0 <= int(tokens) < vocabulary
    assert signals[0, 1].isnan()


@pytest.mark.parametrize("row", [0, 1, 3])
def test_what_no_numbers_chose_is_not_accepted(row: int) -> None:
    """Even where the proposal is the very token that was read off them."""
    torch.manual_seed(row)
    logits = torch.randn(4, 50, device=DEVICE)
    logits[row] = torch.nan
    best, signals = read_rows(logits)
    text = torch.zeros(1, 20, dtype=torch.int32, device=DEVICE)
    text[0, 3:6] = best[:3]  # all three proposals are what was read
    starts, gammas = (torch.tensor([n], dtype=torch.int32, device=DEVICE) for n in (2, 3))
    results = torch.empty(1, RESULT, device=DEVICE)
    accept(text, starts, gammas, 4, best, signals, results)
    assert results[0, 0] == row
    assert results[0, 3].isnan()
