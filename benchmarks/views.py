"""An interactive view of all attention patterns against the same as a matplotlib picture.

    python benchmarks/views.py

144 heads (GPT-2 Small's) on 64 tokens.  Prints the time to make the page as a ratio to that of the
PNG, medians of interleaved rounds, and the size of both.  Neither includes a browser's time.
"""

from __future__ import annotations

import io
import statistics
import time

import torch

LAYERS, HEADS, TOKENS, ROUNDS = 12, 12, 64, 5


def main() -> None:
    from mihack.lab import interactive, plots

    patterns = torch.randn(LAYERS, HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(0))
    patterns = patterns.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf).softmax(-1)
    tokens = [f" token{place}" for place in range(TOKENS)]
    seconds: dict[str, list[float]] = {"page": [], "picture": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        page = interactive.attention(patterns, tokens).html()
        made = time.perf_counter()
        picture = io.BytesIO()
        plots.pattern_grid(patterns, "All heads").savefig(picture, dpi=150)
        drawn = time.perf_counter()
        seconds["page"].append(made - start)
        seconds["picture"].append(drawn - made)
    ratio = statistics.median(seconds["page"]) / statistics.median(seconds["picture"])
    print(f"page {len(page) / 1e6:.2f} MB, picture {picture.tell() / 1e6:.2f} MB, time {ratio:.4f}x")


if __name__ == "__main__":
    main()
