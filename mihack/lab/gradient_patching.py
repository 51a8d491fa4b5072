"""Attribution patching: an estimate of every map of ``patching`` from two forward passes and one backward.

A patch changes an activation from its corrupted to its clean value; its effect is estimated as that
change times the metric's gradient in the corrupted run (see Syed, Rager & Conmy 2023,
arXiv:2310.10348).  It is good for small changes and misses what is not linear in between, above all
saturated attention and norms (Kramar et al. 2024, arXiv:2403.00745): see how far it holds.

    estimate = gradient_maps(model, clean, corrupted, metric)
    exact = Patcher(model, clean, corrupted, metric)
    print(agreement(exact.heads(), estimate.heads, baseline=estimate.baseline))

Activations and gradients are TransformerLens's own, from ``cache_activation_and_gradient``, which its
``attribution_patch`` is made of; that runs on native models too, scores heads, MLPs and the embedding
by position, prompt by prompt, and returns a dictionary of nodes.  This gives what it leaves out (the
residual stream before each block, attention outputs), all prompts in one pass, as maps that stand
beside exact ones; ``tests/test_lab_gradient_patching.py`` holds heads and MLPs to its scores.  For
edges see ``attribution``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

from .patching import SITES, Metric, Tokens


@dataclass(frozen=True)
class GradientMaps:
    """Estimates of what ``Patcher``'s maps hold: the metric after a patch, in the metric's units.

    ``baseline``: the metric on the corrupted prompts; take it off for the change.  ``mlp_out`` is None
    for a model without MLPs.
    """

    baseline: float
    resid_pre: Float[Tensor, "layer position"]
    attn_out: Float[Tensor, "layer position"]
    mlp_out: Float[Tensor, "layer position"] | None
    heads_by_position: Float[Tensor, "layer position head"]

    @property
    def heads(self) -> Float[Tensor, "layer head"]:
        """Each head's output at all positions: to first order effects add up."""
        return self.baseline + (self.heads_by_position - self.baseline).sum(1)


def gradient_maps(
    model: Any, clean: Tokens, corrupted: Tokens, metric: Metric, *, at: int = -1
) -> GradientMaps:
    """Estimate the effect of taking each clean activation into the corrupted run.

    ``clean`` and ``corrupted``: [batch, position], aligned.  ``metric`` and ``at`` as for ``Patcher``.
    Raises ValueError for prompts of unequal shape, or if the model is in training mode (dropout would
    make the two runs differ by itself).
    """
    if clean.shape != corrupted.shape:
        raise ValueError(f"clean is {list(clean.shape)} and corrupted {list(corrupted.shape)}: align them")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first")
    names = [f"blocks.{n}.{site}" for n in range(len(model.blocks)) for site in SITES.values()]

    def scalar(logits: Float[Tensor, "batch position d_vocab"]) -> Tensor:
        value: Tensor = metric(logits[:, at][None]).sum()
        return value

    with torch.enable_grad():
        run = cache_activation_and_gradient(model, corrupted, scalar, names)
    with torch.no_grad():
        wanted = cache_activation_and_gradient(model, clean, scalar, names, compute_gradient=False)
    changes = {}
    for name, gradient in run.gradients.items():
        if gradient is not None:  # summed over the prompts: the metric is their average already
            change = (wanted.activations[name] - run.activations[name]) * gradient
            changes[name] = change.sum((0, -1))
    baseline = run.metric.item()

    def gathered(site: str) -> Tensor:
        layers = [changes[f"blocks.{n}.{SITES[site]}"] for n in range(len(model.blocks))]
        return torch.stack(layers).add(baseline)

    has_mlps = f"blocks.0.{SITES['mlp_out']}" in changes
    return GradientMaps(
        baseline=baseline,
        resid_pre=gathered("resid_pre"),
        attn_out=gathered("attn_out"),
        mlp_out=gathered("mlp_out") if has_mlps else None,
        heads_by_position=gathered("z"),
    )
