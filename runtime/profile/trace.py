"""Exact greedy traces: at every position of the target's output, the draft's whole rollout from there."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from runtime.loop.accept import verified_signals
from runtime.loop.propose import token_signals
from runtime.replay.traces import LOOKAHEAD

ROLLOUTS_AT_ONCE = 64
"""Positions rolled out in one batch. Fixed, so that the arithmetic does not depend on the machine's memory."""


@dataclass(frozen=True)
class Trace:
    """What a replay needs of one prompt; `positions` is the number of tokens that the target wrote."""

    tokens: NDArray[np.int32]
    """int32 `[positions]`, the target's greedy output."""
    rollouts: NDArray[np.float16]
    """float16 `[positions, 16, 4]`: accepted (1 while every draft token so far equals the target's, 0 from the end of
    the output on), entropy in bits, top-1 and top-2 probability of the draft."""
    verified: NDArray[np.float16]
    """float16 `[positions, 3]`, left behind by the verification of the token before each position: the target's entropy
    in bits, its top-1 probability, and the total variation distance of draft and target there."""
    seconds: NDArray[np.bool_]
    """bool `[positions]`: whether the draft's second choice there is the target's token. Where its first one is not,
    a step that verifies both goes on."""


@torch.inference_mode()
def trace(draft: PreTrainedModel, target: PreTrainedModel, prompt: Sequence[int], output: Sequence[int]) -> Trace:
    """Trace the draft along `output`, the target's greedy tokens after `prompt` (both at least one token)."""
    device = target.get_input_embeddings().weight.device
    sequence = torch.tensor([[*prompt, *output]], device=device)
    cache = DynamicCache()
    # Row i of both: the distribution of the token after prompt and i tokens of output, from one token earlier on.
    first = len(prompt) - 1
    draft_logits = draft(sequence[:, :-1], past_key_values=cache, use_cache=True).logits[0, first:].float()
    signals, drafted = [], []
    for start in range(0, len(output), ROLLOUTS_AT_ONCE):
        rows = torch.arange(start, min(start + ROLLOUTS_AT_ONCE, len(output)), device=device)
        block_signals, block_tokens = _roll_out(draft, cache, draft_logits[rows], rows + len(prompt))
        signals.append(block_signals)
        drafted.append(block_tokens)
    wanted = torch.tensor(output, device=device)
    accepted = _accepted(torch.cat(drafted), wanted)
    rollouts = torch.cat([accepted.float()[..., None], torch.cat(signals)], dim=-1)
    return Trace(
        tokens=np.asarray(output, np.int32),
        rollouts=rollouts.cpu().numpy().astype(np.float16),
        verified=_verified(draft, target, sequence[:, :-1], len(output)).cpu().numpy().astype(np.float16),
        seconds=(_second_choices(draft_logits) == wanted).cpu().numpy(),
    )


def greedy_outputs(
    target: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos: Collection[int]
) -> list[list[int]]:
    """Return the target's greedy tokens for a batch of prompts, each up to and with its end-of-sequence token."""
    device = target.get_input_embeddings().weight.device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    generated = target.generate(
        ids.to(device),
        attention_mask=mask.to(device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(eos) or None,
        pad_token_id=0,
    )[:, width:].tolist()
    return [tokens[: _end(tokens, eos)] for tokens in generated]


def _end(tokens: list[int], eos: Collection[int]) -> int:
    return next((i + 1 for i, token in enumerate(tokens) if token in eos), len(tokens))


def _roll_out(draft: PreTrainedModel, cache: DynamicCache, logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Roll out one batch: `logits` `[n, V]` after the first `lengths` `[n]` tokens of the cached sequence.

    Every row sees the one cached sequence up to its own length, then its own drafted tokens.

    Returns:
        Signals, float32 `[n, 16, 3]`, and drafted tokens, int64 `[n, 16]`.
    """
    cached = cache.get_seq_length()
    rows_cache = copy.deepcopy(cache)
    rows_cache.batch_repeat_interleave(len(lengths))
    mask = (torch.arange(cached, device=lengths.device)[None] < lengths[:, None]).long()
    signals, tokens = [token_signals(logits)], [logits.argmax(-1)]
    for step in range(LOOKAHEAD - 1):
        mask = torch.cat([mask, mask.new_ones(len(lengths), 1)], dim=1)
        logits = (
            draft(
                tokens[-1][:, None],
                attention_mask=mask,
                position_ids=(lengths + step)[:, None],
                past_key_values=rows_cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
        signals.append(token_signals(logits))
        tokens.append(logits.argmax(-1))
    return torch.stack(signals, 1), torch.stack(tokens, 1)


def _second_choices(logits: Tensor) -> Tensor:
    """Return the likeliest tokens but for the first choices, int64 `[n]`; of equal ones the first, as `argmax` does."""
    return logits.scatter(1, logits.argmax(-1, keepdim=True), -torch.inf).argmax(-1)


def _accepted(drafted: Tensor, output: Tensor) -> Tensor:
    """Return bool `[positions, 16]`: whether drafted tokens 0…j all equal the output's; False past its end."""
    ahead = torch.nn.functional.pad(output, (0, LOOKAHEAD - 1), value=-1).unfold(0, LOOKAHEAD, 1)
    return (drafted == ahead).cumprod(-1).bool()


def _verified(draft: PreTrainedModel, target: PreTrainedModel, sequence: Tensor, positions: int) -> Tensor:
    """Return float32 `[positions, 3]` over the distributions of the token before each position."""
    # The token before position 0 is the prompt's last one; a prompt of one token has nothing before it.
    keep = min(positions + 1, sequence.shape[1])
    p_logits = target(sequence, logits_to_keep=keep).logits[0, :-1].float()
    q_logits = draft(sequence, logits_to_keep=keep).logits[0, :-1].float()
    rows = verified_signals(p_logits, q_logits)
    return torch.nn.functional.pad(rows, (0, 0, positions - len(rows), 0))
