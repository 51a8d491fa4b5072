"""Thirty-two seeds of a toy model of superposition: together against one by one.

    python benchmarks/many.py

Both draw the same data and take the same steps; the largest difference of their weights is printed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from mihack.lab.many import sparse_features, train_many
from mihack.lab.train import train

SEEDS, STEPS, BATCH = 32, 500, 1024


class Toy(nn.Module):
    """ReLU(W'Wx + b): five features in two dimensions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2, 5, generator=generator) / 2)
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct."""
        return torch.relu(x @ self.weight.T @ self.weight + self.bias)


def loss(model: Any, x: Tensor) -> Tensor:
    """Mean squared error."""
    error: Tensor = ((model(x) - x) ** 2).mean()
    return error


def data(seeds: list[int], step: int) -> Tensor:
    """Each copy's batch."""
    return sparse_features(torch.tensor(seeds), step, BATCH, 5, 0.05)


def main() -> int:
    """Measure and print."""
    ratios, off = [], 0.0
    for _ in range(3):
        start = time.perf_counter()
        stacked = [Toy(seed) for seed in range(SEEDS)]
        train_many(stacked, loss, lambda step: data(list(range(SEEDS)), step), steps=STEPS, lr=1e-3)
        together = time.perf_counter() - start
        start = time.perf_counter()
        for seed in range(SEEDS):
            model = Toy(seed)
            train(model, lambda step, m=model, s=seed: loss(m, data([s], step)[0]), steps=STEPS, lr=1e-3)
            off = max(off, (model.weight - stacked[seed].weight).abs().max().item())
        ratios.append((time.perf_counter() - start) / together)
    print(
        f"{SEEDS} seeds, {STEPS} steps: together {sorted(ratios)[1]:.1f}x as fast as one by one (median of 3)"
    )
    print(f"largest difference of a weight: {off:.0e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
