"""Reading the residual stream as logits: the logit lens, and what each component adds to a logit.

The logit lens (nostalgebraist 2020) is TransformerLens's own, ``transformer_lens.tools.analysis.
logit_lens``; ``lens_difference`` only asks it for a logit difference.  Its direct logit attribution
wants ``enable_compatibility_mode``, which edits the weights in place; ``logit_attribution`` leaves them
as they are, gives every head, MLP, embedding and bias a share, and the shares add up to the model's
logit difference: it checks that, and refuses a model where they do not.

The final norm is frozen at the scale that it had in this run: a share says what a component writes, not
what the model would say without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.tools.analysis import logit_lens

Tokens = Int[Tensor, "batch position"]
# token ids to read: one for each prompt, or one for each prompt and position
Targets = Int[Tensor, "batch"] | Int[Tensor, "batch position"]


def lens_difference(
    model: Any,
    tokens: Tokens,
    answers: Int[Tensor, "batch"],
    others: Int[Tensor, "batch"],
    *,
    at: int = -1,
    lens: Callable[[Tensor, int], Tensor] | None = None,
) -> Float[Tensor, "entry batch"]:
    """Logit of the answer minus that of the other token, if the model stopped here, in nats.

    Entries: before block 0, before block 1, ..., after the last.  ``lens``: translators, or any other
    map of an entry.  For ranks, entropies and all positions call TransformerLens's ``logit_lens``.
    """
    read = [logit_lens(model, tokens, positions=at, targets=ids, lens=lens) for ids in (answers, others)]
    values = [result.readout.values.squeeze(-1) for result in read]
    difference: Tensor = values[0] - values[1]
    return difference


@dataclass(frozen=True)
class Attribution:
    """Shares of a logit (difference), in nats.

    ``values`` [component, batch, position] add up over components to ``total`` [batch, position], the
    model's own.  ``labels``: "embed", "pos_embed", "1.3" (layer 1, head 3), "mlp 1", "attn bias 1",
    and "final bias" for the biases of the final norm and the unembedding.
    """

    labels: list[str]
    values: Float[Tensor, "component batch position"]
    total: Float[Tensor, "batch position"]

    def mean(self, at: int = -1) -> dict[str, float]:
        """Each component's share at one position, averaged over the prompts."""
        return dict(zip(self.labels, self.values[:, :, at].mean(1).tolist(), strict=True))

    def top(self, count: int = 10, at: int = -1) -> list[tuple[str, float]]:
        """The largest shares by absolute value, averaged over the prompts."""
        return sorted(self.mean(at).items(), key=lambda item: -abs(item[1]))[:count]

    def heads(self) -> Float[Tensor, "layer head batch position"]:
        """The shares of the heads alone."""
        places = [tuple(map(int, label.split("."))) for label in self.labels if "." in label]
        chosen = torch.tensor(["." in label for label in self.labels], device=self.values.device)
        layers, heads = max(places)[0] + 1, max(places)[1] + 1
        return self.values[chosen].view(layers, heads, *self.total.shape)


@torch.no_grad()
def logit_attribution(
    model: Any, tokens: Tokens, answers: Targets, others: Targets | None = None
) -> Attribution:
    """What every component adds to the logit of ``answers``, less that of ``others`` if given.

    Works on raw weights of any TransformerBridge with LayerNorm, RMSNorm or no norm, and ends with a
    check of the sum.  Raises ValueError where it fails: the logits are capped or scaled, or a norm
    stands between a component and the stream (Gemma 2), and such shares would be wrong.
    """
    layers = range(len(model.blocks))
    sites = [f"blocks.{n}.{site}" for n in layers for site in ("attn.hook_z", "hook_mlp_out")]
    sites += ["blocks.0.hook_resid_pre", "hook_pos_embed", "ln_final.hook_scale"]
    logits, cache = model.run_with_cache(tokens, names_filter=lambda name: name in sites)
    direction, constant = reading_direction(model, cache, tokens, answers, others)
    parts = _embeddings(cache, direction)
    for layer in layers:
        readout = torch.einsum("hed,bpd->bphe", model.W_O[layer], direction)
        shares = (cache[f"blocks.{layer}.attn.hook_z"] * readout).sum(-1)  # [batch, position, head]
        parts |= {f"{layer}.{head}": share for head, share in enumerate(shares.unbind(-1))}
        bias = getattr(model.blocks[layer].attn, "b_O", None)
        if bias is not None:
            parts[f"attn bias {layer}"] = direction @ bias
        if f"blocks.{layer}.hook_mlp_out" in cache:
            parts[f"mlp {layer}"] = (cache[f"blocks.{layer}.hook_mlp_out"] * direction).sum(-1)
    parts["final bias"] = constant
    total = _chosen(logits, answers) - (0 if others is None else _chosen(logits, others))
    found = Attribution(list(parts), torch.stack(list(parts.values())), total)
    _require_sum(found)
    return found


def _embeddings(cache: Any, direction: Tensor) -> dict[str, Float[Tensor, "batch position"]]:
    """Shares of what the stream starts with: positions apart, where they are added to it."""
    start = cache["blocks.0.hook_resid_pre"]
    if "hook_pos_embed" not in cache:
        return {"embed": (start * direction).sum(-1)}
    places = cache["hook_pos_embed"].expand_as(start)
    return {"embed": ((start - places) * direction).sum(-1), "pos_embed": (places * direction).sum(-1)}


def _require_sum(found: Attribution) -> None:
    total = found.values.sum(0)
    if not torch.allclose(total, found.total, atol=1e-3 * max(1.0, found.values.abs().max().item())):
        off = (total - found.total).abs().max().item()
        raise ValueError(f"the components' shares miss the model's own logits by {off:.2g}: not supported")


def _chosen(logits: Float[Tensor, "batch position vocab"], ids: Targets) -> Float[Tensor, "batch position"]:
    ids = ids.to(logits.device)
    index = ids[:, None] if ids.dim() == 1 else ids
    chosen: Tensor = logits.gather(-1, index.expand(logits.shape[:2])[..., None]).squeeze(-1)
    return chosen


def reading_direction(
    model: Any, cache: Any, tokens: Tokens, answers: Targets, others: Targets | None = None
) -> tuple[Float[Tensor, "batch position d_model"], Float[Tensor, "batch position"]]:
    """The direction of the residual stream that the logit (difference) reads, and the constant it adds.

    The final norm is part of it, frozen at its scale in ``cache`` ("ln_final.hook_scale").
    """
    unembedding, bias = _columns(model, tokens, answers)
    if others is not None:
        other, other_bias = _columns(model, tokens, others)
        unembedding, bias = unembedding - other, bias - other_bias
    if getattr(model.ln_final, "bias", None) is not None:
        bias = bias + unembedding @ model.ln_final.bias
    weight = norm_weight(model, model.ln_final)
    direction = unembedding if weight is None else unembedding * weight
    if centres(model):
        direction = direction - direction.mean(-1, keepdim=True)
    if "ln_final.hook_scale" in cache:
        direction = direction / cache["ln_final.hook_scale"]
    return direction.expand(*tokens.shape, -1), bias.expand(tokens.shape)


def _columns(model: Any, tokens: Tokens, ids: Targets) -> tuple[Tensor, Tensor]:
    """Columns and biases of the unembedding for each prompt and position."""
    ids = ids.to(model.W_U.device)
    index = (ids[:, None] if ids.dim() == 1 else ids).expand(tokens.shape)
    bias = getattr(model, "b_U", None)
    biases = torch.zeros(model.W_U.shape[1], device=model.W_U.device) if bias is None else bias
    return model.W_U.T[index], biases[index]


def norm_weight(model: Any, norm: Any) -> Float[Tensor, "d_model"] | None:
    """What a norm multiplies by; None where it has no weight.  Gemma's holds the distance from 1."""
    weight: Tensor | None = getattr(norm, "weight", None)
    if weight is None:
        return None
    return 1 + weight if getattr(model.cfg, "rmsnorm_uses_offset", False) else weight


def centres(model: Any) -> bool:
    """Whether the model's norms subtract the mean (LayerNorm does, RMSNorm does not)."""
    return str(model.cfg.normalization_type).startswith("LN")


@torch.no_grad()
def source_attribution(
    model: Any, tokens: Tokens, layer: int, head: int, answers: Targets, others: Targets | None = None
) -> Float[Tensor, "batch query key"]:
    """A head's share in ``logit_attribution``, by the position that it came from: adds up over keys."""
    names = {f"blocks.{layer}.attn.hook_{site}" for site in ("pattern", "v")} | {"ln_final.hook_scale"}
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
    direction, _ = reading_direction(model, cache, tokens, answers, others)
    values = cache[f"blocks.{layer}.attn.hook_v"]  # [batch, key, key head, d_head]
    shared = model.cfg.n_heads // values.shape[2]
    value = values[:, :, head // shared]
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
    shares: Tensor = pattern * torch.einsum("bke,ed,bqd->bqk", value, model.W_O[layer, head], direction)
    return shares


@dataclass(frozen=True)
class Translators:
    """An affine map for each entry of the logit lens; hand it over as its ``lens``."""

    weight: Float[Tensor, "entry d_model d_model"]
    bias: Float[Tensor, "entry d_model"]

    def __call__(self, entry: Tensor, index: int) -> Tensor:
        """What the final stream is expected to be, given this entry's."""
        return entry @ self.weight[index].to(entry) + self.bias[index].to(entry)


@torch.no_grad()
def fit_translators(model: Any, rows: Tokens, *, ridge: float = 1e-4, rows_at_once: int = 16) -> Translators:
    """Least-squares maps from every entry of the stream to the final one (Din et al. 2023,
    arXiv:2303.09435), with a bias.

    The tuned lens (Belrose et al. 2023, arXiv:2303.08112) trains such maps on the output's KL
    divergence instead: better, and much dearer.  ``rows`` should hold many more positions than
    d_model; ``ridge`` is relative to the mean square of the stream.
    """
    layers = len(model.blocks)
    names = [f"blocks.{n}.hook_resid_pre" for n in range(layers)]
    names.append(f"blocks.{layers - 1}.hook_resid_post")
    grams: list[Any] = [0] * len(names)
    products: list[Any] = [0] * len(names)
    for batch in torch.split(rows, rows_at_once):
        _, cache = model.run_with_cache(batch, names_filter=lambda name: name in names)
        final = cache[names[-1]].flatten(0, 1).double()
        for entry, name in enumerate(names):
            stream = cache[name].flatten(0, 1).double()
            stream = torch.cat([stream, torch.ones_like(stream[:, :1])], 1)
            grams[entry] += stream.T @ stream
            products[entry] += stream.T @ final
    maps = [_solve(gram, product, ridge) for gram, product in zip(grams, products, strict=True)]
    found = torch.stack(maps).float()
    return Translators(found[:, :-1], found[:, -1])


def _solve(gram: Tensor, product: Tensor, ridge: float) -> Tensor:
    penalty = torch.full_like(gram[0], ridge * gram.diagonal()[:-1].mean().item())
    penalty[-1] = 0  # the bias goes free
    solution: Tensor = torch.linalg.solve(gram + penalty.diag(), product)
    return solution
