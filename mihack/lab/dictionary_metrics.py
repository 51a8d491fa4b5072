"""How good is a dictionary: what it explains, how sparsely, what the model makes of it, what it found.

Report several together (Karvonen et al. 2025, SAEBench, arXiv:2503.09532): explained variance and L0
say little about whether latents mean anything, and a share of the loss recovered looks high wherever
its zero is a broken model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Dictionary = Float[Tensor, "latent d"]
# logits [batch, position, d_vocab], tokens [batch, position] -> scalar
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Quality:
    """``explained_variance``: 1 minus squared error over squared distance from the mean.  ``l0``: latents
    active per example.  ``density`` [latent]: share of examples where each is active."""

    explained_variance: float
    l0: float
    density: Float[Tensor, "latent"]
    examples: int

    @property
    def dead(self) -> float:
        """Share of latents that no example activated: it shrinks as there are more examples."""
        return (self.density == 0).float().mean().item()

    def density_histogram(self, bins: int = 30) -> tuple[Float[Tensor, "edge"], Int[Tensor, "bin"]]:
        """Edges in log10 of density, from one example to all of them, and live latents in each bin."""
        edges = torch.linspace(-math.log10(max(2, self.examples)), 0.0, bins + 1)
        levels = self.density[self.density > 0].log10()
        place = torch.bucketize(levels, edges[1:-1])
        return edges, torch.bincount(place, minlength=bins)


@torch.no_grad()
def measure(sae: Any, batches: Iterable[Any]) -> Quality:
    """Quality over batches of activations [batch, d], or of (input, target) for a transcoder.

    Use activations that the dictionary was not trained on.
    """
    error = squares = 0.0
    total: Any = 0.0
    active: Any = 0
    examples = 0
    for drawn in batches:
        x, target = drawn if isinstance(drawn, tuple) else (drawn, drawn)
        error += (target - sae(x)).double().square().sum().item()
        squares += target.double().square().sum().item()
        total = total + target.double().sum(0)
        active = active + (sae.encode(x) > 0).sum(0)
        examples += len(x)
    spread = squares - (total.square().sum() / examples).item()
    density = active.float() / examples
    return Quality(1 - error / max(spread, 1e-30), density.sum().item(), density, examples)


@dataclass(frozen=True)
class LossRecovered:
    """The model's loss as it is, with the dictionary spliced in, and with the site ablated."""

    clean: float
    spliced: float
    zero: float
    mean: float

    @property
    def against_zero(self) -> float:
        """(zero - spliced) / (zero - clean): 1 is no harm.  nan if the ablation does no harm either."""
        return self._share(self.zero)

    @property
    def against_mean(self) -> float:
        """The same with mean ablation, which mostly breaks less and then is the stricter scale."""
        return self._share(self.mean)

    def _share(self, ablated: float) -> float:
        harm = ablated - self.clean
        return (ablated - self.spliced) / harm if harm > 1e-6 else math.nan


@torch.no_grad()
def loss_recovered(
    model: Any, tokens: Int[Tensor, "batch position"], site: str, sae: Any, *,
    source: str | None = None, loss: Loss | None = None,
) -> LossRecovered:  # fmt: skip
    """Splice a dictionary into a TransformerBridge at a hook name, on held-out tokens.

    ``source``: the hook that a transcoder reads, such as ``blocks.0.ln2.hook_out`` with ``site``
    ``blocks.0.hook_mlp_out``.  ``loss(logits, tokens)`` is next-token cross-entropy unless given.  The
    mean is the site's over these tokens.
    """
    score = loss or next_token_loss
    kept: list[Tensor] = []
    clean = score(model.run_with_hooks(tokens, fwd_hooks=[(site, lambda v, hook: kept.append(v))]), tokens)
    mean = kept[0].flatten(0, -2).mean(0)
    edits = {
        "spliced": splice(sae, site, source),
        "zero": [(site, lambda v, hook: torch.zeros_like(v))],
        "mean": [(site, lambda v, hook: mean.expand_as(v))],
    }
    losses = {
        name: score(model.run_with_hooks(tokens, fwd_hooks=hooks), tokens).item()
        for name, hooks in edits.items()
    }
    return LossRecovered(clean.item(), **losses)


def splice(sae: Any, site: str, source: str | None = None) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks that put the dictionary's output in the place of the activation at ``site``."""
    if source is None:
        return [(site, lambda value, hook: sae(value).to(value.dtype))]
    read: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        read[:] = [value]

    return [(source, keep), (site, lambda value, hook: sae(read[0]).to(value.dtype))]


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of each next token."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True)
class Recovery:
    """``best`` [feature]: highest cosine of each true feature with any row of the dictionary."""

    best: Float[Tensor, "feature"]

    @property
    def mmcs(self) -> float:
        """Mean max cosine similarity (Sharkey, Braun & Millidge 2022)."""
        return self.best.mean().item()

    def share(self, above: float = 0.9) -> float:
        """Share of true features with a row at a cosine above this."""
        return (self.best > above).float().mean().item()


def recovery(dictionary: Dictionary, truth: Float[Tensor, "feature d"]) -> Recovery:
    """Compare a dictionary with known directions.  Signed: a row that points the other way is no match."""
    cosine = functional.normalize(truth, dim=1) @ functional.normalize(dictionary, dim=1).T
    return Recovery(cosine.amax(1))


def baseline_dictionaries(x: Float[Tensor, "example d"], rows: int, seed: int = 0) -> dict[str, Dictionary]:
    """What a dictionary must beat: random rows, principal components (both signs), rows of the data."""
    generator = torch.Generator().manual_seed(seed)
    centred = x - x.mean(0)
    components = torch.linalg.svd(centred, full_matrices=False).Vh
    chosen = torch.randperm(len(x), generator=generator)[:rows]
    return {
        "random": torch.randn(rows, x.shape[1], generator=generator).to(x),
        "principal components": torch.cat([components, -components]),
        "data": centred[chosen.to(x.device)],
    }
