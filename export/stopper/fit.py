"""The model: one hidden layer of 32 units beside a linear path, two logistic outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from export.stopper.rows import Rows

HIDDEN = 32
EPOCHS = 12
BATCH_ROWS = 2048
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-4
LEAST_DEVIATION = 1e-3

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """The fitted model as a plain perceptron on raw features: sigmoid(relu(x W1 + b1) W2 + b2).

    `W1` `[features, 36]`, `b1` `[36]`, `W2` `[36, 2]`, `b2` `[2]`. Standardisation is folded into the first layer; the
    linear path is four of the hidden units, since u = relu(u) − relu(−u).
    """

    W1: Floats
    b1: Floats
    W2: Floats
    b2: Floats

    def probabilities(self, features: Floats) -> Floats:
        """Return `[n, 2]` for features `[n, FEATURES]`, in float64 inside."""
        hidden = np.maximum(features.astype(np.float64) @ self.W1 + self.b1, 0)
        result: Floats = (1 / (1 + np.exp(-(hidden @ self.W2 + self.b2)))).astype(np.float32)
        return result


def fit(rows: Rows, seed: int) -> Weights:
    """Minimise the weighted binary cross entropy of both outputs (AdamW, one-cycle learning rate)."""
    # Summed in float64: over hundreds of thousands of rows float32 gives a constant another mean, and a deviation.
    mean = rows.features.mean(0, dtype=np.float64).astype(np.float32)
    deviation = np.maximum(rows.features.std(0, dtype=np.float64), LEAST_DEVIATION).astype(np.float32)
    features = torch.from_numpy((rows.features - mean) / deviation)
    labels, weights = torch.from_numpy(rows.labels), torch.from_numpy(rows.weights)
    generator = torch.Generator().manual_seed(seed)
    model = _Model(features.shape[1], generator)
    batches = -(-len(features) // BATCH_ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(features), generator=generator).split(BATCH_ROWS):  # type: ignore[no-untyped-call]
            losses = binary_cross_entropy_with_logits(model(features[chosen]), labels[chosen], weights[chosen])
            optimizer.zero_grad()
            losses.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.folded(mean, deviation)


class _Model(torch.nn.Module):
    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.W1 = torch.nn.Parameter(torch.randn(features, HIDDEN, generator=generator) / features**0.5)
        self.b1 = torch.nn.Parameter(torch.zeros(HIDDEN))
        self.W2 = torch.nn.Parameter(0.3 * torch.randn(HIDDEN, 2, generator=generator) / HIDDEN**0.5)
        self.b2 = torch.nn.Parameter(torch.zeros(2))
        self.linear = torch.nn.Parameter(torch.zeros(features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W1 + self.b1) @ self.W2 + self.b2 + x @ self.linear

    def folded(self, mean: Floats, deviation: Floats) -> Weights:
        """Return the same function of raw features, without the linear path."""
        W1, b1, W2, b2, linear = (weight.detach().double().numpy() for weight in self.parameters())
        signs = np.array([[1.0, -1.0]])
        first = np.concatenate([W1, *(column[:, None] * signs for column in linear.T)], axis=1)
        second = np.concatenate([W2, *(np.outer(signs, row) for row in np.eye(2))])
        raw = first / deviation[:, None]
        raw[deviation <= LEAST_DEVIATION] = 0  # never seen to change: what a change would mean was not learnt
        bias = np.concatenate([b1, np.zeros(4)]) - mean @ raw
        return Weights(*(array.astype(np.float32) for array in (raw, bias, second, b2)))
