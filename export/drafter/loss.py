"""Forward KL(target || drafter) over the whole vocabulary, in chunks of positions, with its gradient written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK_BYTES = 2**30
"""Memory for one chunk's logits; about four such blocks live at a time."""

GradientRule = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def kl_gradient(draft_logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient and the sums of one chunk; logits `[t, vocabulary]`.

    KL(p || q) = Σ p (log p - log q), whose gradient to the logits of q is q - p. Softmax is taken in float32; the
    gradient `[t, vocabulary]` comes in the logits' dtype. Sums, float32 `[2]`: KL in nats, positions where both argmax
    agree.
    """
    log_q = draft_logits.float().log_softmax(-1)
    log_p = target_logits.float().log_softmax(-1)
    p = log_p.exp()
    gradient = (log_q.exp() - p).to(draft_logits.dtype)
    agreed = draft_logits.argmax(-1) == target_logits.argmax(-1)
    return gradient, torch.stack([(p * (log_p - log_q)).sum(), agreed.float().sum()])


@torch.no_grad()
def distil(
    drafts: list[Tensor], states: Tensor, head: Tensor, rule: GradientRule = kl_gradient
) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of the mean KL to the drafters' hidden states, and the sums per drafter.

    `drafts`: hidden states `[t, hidden]` after the final norm, one per drafter; `states`: the target's, likewise;
    `head`: `[vocabulary, hidden]`, shared by all, which sets the dtype of the logits. The target's logits are computed
    once for all drafters. Returns gradients in each drafter's dtype, and float32 `[drafters, 2]` as in `kl_gradient`.
    """
    count = len(states)
    chunk = max(1, CHUNK_BYTES // (head.shape[0] * head.element_size()))
    gradients = [torch.empty_like(draft) for draft in drafts]
    sums = torch.zeros(len(drafts), 2, device=head.device)
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        target_logits = states[part].to(head.dtype) @ head.T
        for i, draft in enumerate(drafts):
            gradient, chunk_sums = rule(draft[part].to(head.dtype) @ head.T, target_logits)
            gradients[i][part] = (gradient @ head).to(draft.dtype) / count
            sums[i] += chunk_sums
    return gradients, sums
