"""Many seeds of a toy model together against one by one: superposition, and grokking transformers.

    python benchmarks/many.py                   both
    python benchmarks/many.py --only grokking   eight transformers on addition mod 53

Both ways draw the same data and take the same steps; the largest difference of weights is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from mihack.lab.many import sparse_features, train_many
from mihack.lab.many_transformers import LastPosition
from mihack.lab.train import train

SEEDS, STEPS, BATCH = 32, 500, 1024
P, GROKKING_STEPS = 53, 25


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


def grokker(seed: int) -> Any:
    """A transformer of width 128 for addition mod 53 (after Nanda et al. 2023, arXiv:2301.05217)."""
    return TransformerBridge.boot_native(
        TransformerBridgeConfig(
            n_layers=1,
            d_model=128,
            n_heads=4,
            d_head=32,
            d_mlp=512,
            d_vocab=P + 1,
            d_vocab_out=P,
            n_ctx=3,
            act_fn="relu",
            normalization_type=None,
            seed=seed,
        )
    )


def grokking() -> None:
    """Full batches of 30 % of all pairs, AdamW with weight decay 1; rounds in turn, medians."""
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    pick = torch.randperm(P * P, generator=torch.Generator().manual_seed(0))[: P * P * 3 // 10]
    tokens = torch.stack([a, b, torch.full_like(a, P)], 1)[pick]
    answers = ((a + b) % P)[pick]
    settings: dict[str, Any] = {"steps": GROKKING_STEPS, "lr": 1e-3, "weight_decay": 1.0}

    def together(count: int) -> tuple[float, list[Any]]:
        models = [grokker(seed) for seed in range(count)]
        last = LastPosition(models[0], tokens)

        def losses(parameters: Any, _batch: Any) -> Tensor:
            logits = last.logits(parameters)
            each = F.cross_entropy(logits.flatten(0, 1), answers.repeat(count), reduction="none")
            return each.view(count, -1).mean(1)

        start = time.perf_counter()
        train_many(models, losses, lambda step: None, stacked=True, **settings)
        return time.perf_counter() - start, models

    def alone(seed: int) -> tuple[float, Any]:
        model = grokker(seed)
        start = time.perf_counter()
        train(model, lambda step: F.cross_entropy(model(tokens)[:, -1], answers), **settings)
        return time.perf_counter() - start, model

    rounds: dict[int, list[float]] = {count: [] for count in (1, 2, 4, 8)}
    for _ in range(3):
        each = median([alone(seed)[0] for seed in range(2)])
        for count, ratios in rounds.items():
            ratios.append(each * count / together(count)[0])
    shown = ", ".join(f"{count}: {median(ratios):.1f}x" for count, ratios in rounds.items())
    print(f"grokking transformers, {GROKKING_STEPS} steps, by number of seeds: {shown} (medians of 3)")


def superposition() -> None:
    """Toy models of superposition, under vmap."""
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


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="many seeds together against one by one")
    parser.add_argument("--only", choices=["superposition", "grokking"])
    only = parser.parse_args().only
    print(f"{torch.get_num_threads()} threads")
    if only != "grokking":
        superposition()
    if only != "superposition":
        grokking()
    return 0


if __name__ == "__main__":
    sys.exit(main())
