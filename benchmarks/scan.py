"""A scan of all MLP neurons against the bare forward pass and against ``run_with_cache`` plus top-k.

    python benchmarks/scan.py

Prints token rates as ratios to the forward pass without hooks, and the peak memory of a scan over
one and over twenty times as many tokens, each in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

K, WIDTH, ROWS_AT_ONCE = 16, 128, 16


def rates(batches: int) -> None:
    """Token rates, interleaved batch by batch so that a drifting machine slows all alike."""
    from shapes import gpt2_shaped

    from mihack.lab.scan import neurons, scan

    model = gpt2_shaped()
    sites = neurons(model)
    rows = torch.randint(
        0, 50257, (batches * ROWS_AT_ONCE, WIDTH), generator=torch.Generator().manual_seed(0)
    )
    seconds = {"bare": 0.0, "scan": 0.0, "cache": 0.0}
    kept: Any = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        state = Path(folder) / "scan.safetensors"
        model(rows[:ROWS_AT_ONCE])  # warm
        for number in range(batches):
            batch = rows[number * ROWS_AT_ONCE : (number + 1) * ROWS_AT_ONCE]
            start = time.perf_counter()
            model(batch)
            bare = time.perf_counter()
            _, cache = model.run_with_cache(batch, names_filter=lambda name: name in sites)
            for site in sites:
                values = cache[site].flatten(0, 1)
                merged = torch.cat([kept[site], values]) if site in kept else values
                kept[site] = merged.topk(K, dim=0).values
            cached = time.perf_counter()
            # the same rows up to here; the state makes it go on where it stopped
            scan(model, rows[: (number + 1) * ROWS_AT_ONCE], sites, k=K, state=state, save_every=10**9)
            done = time.perf_counter()
            for name, value in zip(seconds, (bare - start, done - cached, cached - bare), strict=True):
                seconds[name] += value
        found = scan(model, rows, sites, k=K, state=state)
    off = max((found.sites[site].top - kept[site]).abs().max().item() for site in sites)
    print(
        f"{batches * ROWS_AT_ONCE * WIDTH} tokens, {len(sites)} layers of {kept[sites[0]].shape[1]} neurons"
    )
    for name, label in (("scan", "scan (saved after every batch)"), ("cache", "run_with_cache and top-k")):
        print(f"{label:<32} {seconds['bare'] / seconds[name]:.2f}x of the bare forward pass's token rate")
    print(f"largest difference between their top-{K}: {off:.0e}")


def peak(rows_file: str) -> None:
    """Peak memory of one scan over a file of rows, in MiB."""
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    from mihack.lab.scan import neurons, scan

    config = TransformerBridgeConfig(
        n_layers=2, d_model=128, n_heads=4, d_head=32, d_vocab=5000, n_ctx=WIDTH, act_fn="gelu", seed=0
    )
    model = TransformerBridge.boot_native(config).eval()
    rows = np.load(rows_file, mmap_mode="r")
    scan(model, rows, neurons(model), k=K)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    if arguments:
        peak(arguments[0])
        return 0
    rates(12)
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for times in (1, 20):
            path = Path(folder) / f"{times}.npy"
            np.save(path, np.random.default_rng(0).integers(0, 5000, (128 * times, WIDTH), dtype=np.uint16))
            run = subprocess.run(
                [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True
            )
            peaks.append(float(run.stdout.split()[-1]))
    print(f"peak memory, 20 times the tokens over once: {peaks[1] / peaks[0]:.2f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
