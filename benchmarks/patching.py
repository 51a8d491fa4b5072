"""Exact patching against ``transformer_lens.patching``, side by side in one process.

    python benchmarks/patching.py

The model has GPT-2 Small's shape and random weights: no download.  Prompt: 15 tokens.  Where
TransformerLens would need thousands of forward passes, a random sample of cells is timed and scaled
by their number, since each of its cells costs one whole pass; the cells of the sample are compared.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from shapes import gpt2_shaped
from transformer_lens import patching

from mihack.lab.patching import Patcher, logit_difference

POSITIONS, SAMPLE = 15, 72
ANSWER, OTHER = 5, 6


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def theirs(model: Any, corrupted: Any, cache: Any, site: str, cells: pd.DataFrame) -> Any:
    """TransformerLens's own sweep over these cells."""
    setters = {
        "resid_pre": ("resid_pre", patching.layer_pos_patch_setter),
        "heads": ("z", patching.layer_head_vector_patch_setter),
        "heads_by_position": ("z", patching.layer_pos_head_vector_patch_setter),
    }
    name, setter = setters[site]
    with torch.no_grad():
        return patching.generic_activation_patch(
            model,
            corrupted,
            cache,
            lambda logits: (logits[:, -1, ANSWER] - logits[:, -1, OTHER]).mean(),
            setter,
            name,
            index_df=cells,
        )


def main() -> int:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    model = gpt2_shaped()
    clean = torch.randint(0, 50257, (1, POSITIONS), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[0, 3] += 1
    corrupted[0, 9] += 1
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    metric = logit_difference(torch.tensor([ANSWER]), torch.tensor([OTHER]))
    axes = {
        "resid_pre": [("layer", layers), ("pos", POSITIONS)],
        "heads": [("layer", layers), ("head", heads)],
        "heads_by_position": [("layer", layers), ("pos", POSITIONS), ("head", heads)],
    }
    _, cache = model.run_with_cache(clean)
    model(clean)  # warm
    print("| map | cells | TransformerLens, s | ours, s | ratio | largest difference |\n" + "|---" * 6 + "|")
    for site, sizes in axes.items():
        grid = pd.MultiIndex.from_product([range(size) for _, size in sizes]).to_frame(index=False)
        grid.columns = [name for name, _ in sizes]
        sample = grid if len(grid) <= 200 else grid.sample(SAMPLE, random_state=0)
        slow, wanted = timed(lambda site=site, sample=sample: theirs(model, corrupted, cache, site, sample))
        slow *= len(grid) / len(sample)
        fast, found = timed(lambda site=site: getattr(Patcher(model, clean, corrupted, metric), site)())
        chosen = found[tuple(torch.tensor(sample[name].to_numpy()) for name in sample.columns)]
        off = (chosen - wanted.flatten()).abs().max().item()
        scaled = "" if len(grid) == len(sample) else f" (from {len(sample)})"
        print(f"| {site} | {len(grid)} | {slow:.1f}{scaled} | {fast:.1f} | {slow / fast:.1f}x | {off:.0e} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
