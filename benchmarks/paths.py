"""Exact path patching against its peers, side by side in one process.

    python benchmarks/paths.py

The model has GPT-2 Small's shape and random weights: no download.  Prompt: 15 tokens, which differ at
positions 3 and 9.  Peers: ``transformer_lens.patching.get_act_patch_direct_path`` for a head's query
and value, which goes from one sender into all later heads; for MLPs and logits, which it does not do, a
whole run with a hook per sender.  Both cost one run per cell, whatever the cell: a sample is timed and
scaled, and its values are compared.  Rounds are interleaved; ratios are of medians.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from shapes import gpt2_shaped
from transformer_lens import patching

from mihack.lab.attribution import Node
from mihack.lab.patching import logit_difference
from mihack.lab.paths import PathPatcher

POSITIONS, ROUNDS = 15, 3
ANSWER, OTHER = 5, 6


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def slow_metric(logits: Any) -> Any:
    """What ``logit_difference`` takes, from all logits."""
    return (logits[:, -1, ANSWER] - logits[:, -1, OTHER]).mean()


@torch.no_grad()
def by_hooks(model: Any, corrupted: Any, caches: list[Any], receiver: Node, senders: Any) -> Any:
    """A whole run for each sender, which adds its change to what the receiver reads."""
    last = model.cfg.n_layers - 1
    at_end = receiver.kind == "logits"
    name = f"blocks.{last}.hook_resid_post" if at_end else f"blocks.{receiver.layer}.ln2.hook_in"
    found = []
    for layer, head in senders:
        z = [cache[f"blocks.{layer}.attn.hook_z"][:, :, head] for cache in caches]
        change = (z[0] - z[1]) @ model.blocks[layer].attn.W_O[head]
        hook = (name, lambda value, hook=None, change=change: value + change)
        found.append(slow_metric(model.run_with_hooks(corrupted, fwd_hooks=[hook])))
    return torch.stack(found)


@torch.no_grad()
def by_transformer_lens(model: Any, corrupted: Any, caches: list[Any], receiver: Node, head: int) -> Any:
    """Its sweep from one head of the layer before; the cells into the receiver's layer."""
    found = patching.get_act_patch_direct_path(
        model, corrupted, *caches, slow_metric, receiver.layer - 1, head, receiver.kind, verbose=False
    )
    return found[receiver.layer]


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
    with torch.no_grad():
        caches = [model.run_with_cache(tokens)[1] for tokens in (clean, corrupted)]
    print("| receiver | cells | peer | ratio | with set-up | largest effect | largest difference |")
    print("|---" * 7 + "|")
    for receiver in (Node(9, "q", 9), Node(9, "v", 9), Node(8, "mlp"), Node(layers, "logits")):
        is_head = receiver.kind in "qkv"
        cells = (receiver.layer + (receiver.kind == "mlp")) * heads
        senders = [(layer, 2) for layer in range(cells // heads)]
        slow, fast, whole, off = [], [], [], 0.0
        for number in range(ROUNDS):
            if is_head:
                seconds, wanted = timed(
                    partial(by_transformer_lens, model, corrupted, caches, receiver, number)
                )
                slow.append(seconds * cells / (heads * (layers - receiver.layer)))
                wanted = wanted[receiver.head]
            else:
                seconds, wanted = timed(partial(by_hooks, model, corrupted, caches, receiver, senders))
                slow.append(seconds * cells / len(senders))
            set_up, patcher = timed(partial(PathPatcher, model, clean, corrupted, metric))
            seconds, found = timed(partial(patcher.into, receiver))
            fast.append(seconds)
            whole.append(set_up + seconds)
            ours = found[receiver.layer - 1, number] if is_head else found[: len(senders), 2]
            off = max(off, (ours - wanted).abs().max().item())
        peer = "TransformerLens" if is_head else "hooked runs"
        ratios = [statistics.median(slow) / statistics.median(times) for times in (fast, whole)]
        effect = (found - patcher.baseline()).abs().max().item()
        row = [f"{receiver}", f"{cells}", peer, *(f"{ratio:.0f}x" for ratio in ratios)]
        print("| " + " | ".join([*row, f"{effect:.0e}", f"{off:.0e}"]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
