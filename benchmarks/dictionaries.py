"""A TopK autoencoder that decodes from its k latents against one that decodes densely; probes and controls.

    python benchmarks/dictionaries.py

The dense peer is the same class with the same weights, whose decoder multiplies all latents, zeros
included, as the usual implementation in a few lines of torch does.  Steps alternate; medians; one
thread.  Ridge with its controls is against scikit-learn twice: RidgeClassifier fitted anew for every set
of labels, and Ridge with all sets as its targets at once.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mihack.lab.probe_fits import fit_all
from mihack.lab.sae import Options, SparseAutoencoder

# d, latents, k, batch
SIZES = ((32, 128, 4, 256), (128, 1024, 16, 256), (512, 4096, 32, 512), (768, 12_288, 32, 512))
ROUNDS = 9


class Dense(SparseAutoencoder):
    """The same autoencoder, decoding all latents."""

    def _gathered(self, values: Tensor, index: Tensor) -> Tensor:
        latents = values.new_zeros(*values.shape[:-1], self.options.latents).scatter(-1, index, values)
        return latents @ self.decoder


def seconds(task: Callable[[], Any]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def alternate(tasks: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, taking turns after one round to warm up."""
    times = {name: [seconds(task) for _ in range(1)] for name, task in tasks.items()}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def dictionaries(d: int, latents: int, k: int, batch: int) -> None:
    """Decoding alone, and whole training steps (forward, backward, Adam)."""
    options = Options(d, latents, k=k, auxiliary=0.0)
    pair = {"gathered": SparseAutoencoder(options), "dense": Dense(options)}
    x = torch.randn(batch, d, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        off = (pair["gathered"](x) - pair["dense"](x)).abs().max().item()
        top = pair["gathered"]._top(pair["gathered"].before_activation(x))
        decode = alternate({name: lambda sae=sae: sae._gathered(*top) for name, sae in pair.items()})
    optimisers = {name: torch.optim.AdamW(sae.parameters(), lr=1e-4) for name, sae in pair.items()}

    def step(name: str) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        pair[name].loss(x).backward()
        optimisers[name].step()

    train = alternate({name: lambda name=name: step(name) for name in pair})
    ratios = [times["dense"] / times["gathered"] for times in (decode, train)]
    print(
        f"  {d} to {latents} latents, k {k}, batch {batch}: decoding {ratios[0]:.2f}x, "
        f"a training step {ratios[1]:.2f}x (outputs differ by {off:.0e})"
    )


def probes() -> None:
    """One probe and twenty controls."""
    from sklearn.linear_model import Ridge, RidgeClassifier

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 768, generator=generator)
    sets = [torch.randint(0, 2, (3000,), generator=generator) for _ in range(21)]

    def one_by_one() -> list[Any]:
        z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
        return [RidgeClassifier(alpha=1.0).fit(z, y.numpy()) for y in sets]

    def as_targets() -> Any:
        z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
        return Ridge(alpha=1.0).fit(z, torch.stack(sets, 1).numpy() * 2.0 - 1.0)

    ours = alternate(
        {"ours": lambda: fit_all(x, sets, "ridge", 1.0), "one": one_by_one, "targets": as_targets}
    )
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    found = [probe.scores(x)[:, 0] for probe in fit_all(x, sets, "ridge", 1.0)]
    scores = [torch.from_numpy(model.decision_function(z)).float() for model in one_by_one()]
    off = max((one - two).abs().max().item() for one, two in zip(found, scores, strict=True))
    print("ridge with 20 controls, 3000 x 768, against scikit-learn:")
    print(f"  {ours['one'] / ours['ours']:.1f}x as fast as one by one")
    print(f"  {ours['targets'] / ours['ours']:.1f}x as fast as all as targets of one Ridge")
    print(f"  scores differ by {off:.0e}")


def main() -> int:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # with more, another program on the machine shows in the ratios
    print("TopK autoencoder, gathered against dense decoding:")
    for size in SIZES:
        dictionaries(*size)
    probes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
