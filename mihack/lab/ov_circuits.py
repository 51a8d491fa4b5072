"""What a head does with what it attends to: scores from the weights of its OV circuit alone.

The full OV circuit W_E W_V W_O W_U says by how much attending to a token raises every logit (Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits").  Vocabulary squared is too large for a
real model, but each factor has only d_head columns: everything here stays factored, so that 50,000
tokens take tens of megabytes.  Norm weights are folded in on the way (not in the model), logits are
centred over the vocabulary, and queries that share keys and values get their own circuit each.

TransformerLens has ``FactoredMatrix.eigenvalues`` for one circuit; its weights are raw or, after
``enable_compatibility_mode``, folded in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .lens import centres, norm_weight

Vectors = Float[Tensor, "vocab d_model"]


@torch.no_grad()
def effective_embedding(model: Any) -> Vectors:
    """The token embeddings, with what the first MLP makes of each of them added.

    In GPT-2-like models later heads read a token in this form rather than as W_E alone; pass it as
    ``embedding``.  The first layer's attention is left out.
    """
    block, vectors = model.blocks[0], model.W_E
    if model.cfg.attn_only:
        return vectors  # type: ignore[no-any-return]
    norm = getattr(block, "ln2", None) or getattr(block, "ln1", None)
    given = vectors[None] if norm is None else norm(vectors[None])
    out = block.mlp(given)
    added: Tensor = vectors + (out[0] if isinstance(out, tuple) else out).squeeze(0)
    return added


@torch.no_grad()
def copying(
    model: Any, tokens: Int[Tensor, "n"] | None = None, *, embedding: Vectors | None = None
) -> Float[Tensor, "layer head"]:
    """How far each head raises the token that it attends to: its mean standardised logit.

    ``heads.copying_score`` of the full circuit, without forming it: 0 for a random head, about
    sqrt(vocabulary) for a perfect copier.  ``tokens``: those to average over, by default all.
    """
    unembedding = _unembedding(model)
    vectors = model.W_E if embedding is None else embedding
    ids = torch.arange(model.W_U.shape[1], device=model.W_U.device) if tokens is None else tokens
    _require_same_vocabulary(model)
    scores = torch.empty(len(model.blocks), model.cfg.n_heads)
    for layer, head, values, out in _heads(model):
        given = _read(model, layer, vectors[ids]) @ values  # [n, d_head]
        logits = out @ unembedding  # [d_head, vocab], its rows centred over the vocabulary
        own = (given * logits.T[ids]).sum(-1)
        covariance = logits @ logits.T / (logits.shape[1] - 1)
        spread = ((given @ covariance) * given).sum(-1).clamp_min(0).sqrt()
        scores[layer, head] = (own / spread.clamp_min(1e-12)).mean()
    return scores


@torch.no_grad()
def copying_eigenvalues(model: Any, *, embedding: Vectors | None = None) -> Float[Tensor, "layer head"]:
    """Sum of the full OV circuit's eigenvalues over the sum of their sizes (Elhage et al. 2021).

    1: every direction of token space is written back as itself, a copying head; -1: each is
    suppressed; 0: neither.  The eigenvalues other than 0 are those of the small matrix W_O W_U W_E W_V.
    """
    _require_same_vocabulary(model)
    vectors = model.W_E if embedding is None else embedding
    through = _unembedding(model) @ (_centred(vectors) if centres(model) else vectors)  # [d_model, d_model]
    scores = torch.empty(len(model.blocks), model.cfg.n_heads)
    for layer, head, values, out in _heads(model):
        weight = norm_weight(model, getattr(model.blocks[layer], "ln1", None))
        small = out @ (through if weight is None else through * weight) @ values
        eigenvalues = torch.linalg.eigvals(small.double())
        scores[layer, head] = eigenvalues.real.sum() / eigenvalues.abs().sum().clamp_min(1e-12)
    return scores


@torch.no_grad()
def successor(
    model: Any,
    sequence: Int[Tensor, "n"],
    *,
    cyclic: bool = False,
    embedding: Vectors | None = None,
) -> Float[Tensor, "layer head"]:
    """Share of an ordered list of tokens (days, numbers) after which each head raises the next one most.

    The successor score of Gould et al. 2023, arXiv:2312.09230, with two choices of ours: "most" is
    among the tokens of the list, so chance is 1/n, and the embedding is ``effective_embedding`` unless
    you pass another.  ``cyclic``: the first follows the last.  Raises ValueError for under three tokens.
    """
    if len(sequence) < 3:
        raise ValueError("a sequence of at least three tokens is needed")
    _require_same_vocabulary(model)
    vectors = effective_embedding(model) if embedding is None else embedding
    sequence = sequence.to(vectors.device)
    unembedding = _unembedding(model)[:, sequence]
    wanted = (torch.arange(len(sequence), device=vectors.device) + 1) % len(sequence)
    count = len(sequence) if cyclic else len(sequence) - 1
    scores = torch.empty(len(model.blocks), model.cfg.n_heads)
    for layer, head, values, out in _heads(model):
        logits = _read(model, layer, vectors[sequence]) @ values @ out @ unembedding
        scores[layer, head] = (logits.argmax(-1) == wanted)[:count].double().mean()
    return scores


def ov_scores(model: Any, *, embedding: Vectors | None = None) -> dict[str, Float[Tensor, "layer head"]]:
    """Both copying scores of every head, to stand beside ``heads.head_scores``."""
    return {
        "copying": copying(model, embedding=embedding),
        "OV eigenvalues": copying_eigenvalues(model, embedding=embedding),
    }


def _heads(model: Any) -> Iterator[tuple[int, int, Float[Tensor, "d_model d_head"], Any]]:
    """Layer, head, W_V and W_O of every head; heads that share keys and values have one W_V."""
    all_values, all_out = model.W_V, model.W_O
    shared = model.cfg.n_heads // all_values.shape[1]
    for layer in range(len(model.blocks)):
        for head in range(model.cfg.n_heads):
            yield layer, head, all_values[layer, head // shared], all_out[layer, head]


def _read(model: Any, layer: int, vectors: Tensor) -> Tensor:
    """Embeddings as a layer's heads read them, but for the norm's scale.

    Copying and successor scores do not depend on it; the eigenvalues take it as equal for all tokens.
    """
    weight = norm_weight(model, getattr(model.blocks[layer], "ln1", None))
    given = _centred(vectors) if centres(model) else vectors
    return given if weight is None else given * weight


def _unembedding(model: Any) -> Float[Tensor, "d_model vocab"]:
    """W_U with the final norm's weight, centred over the vocabulary (a softmax sees no mean)."""
    weight = norm_weight(model, model.ln_final)
    matrix = model.W_U if weight is None else model.W_U * weight[:, None]
    if centres(model):
        matrix = matrix - matrix.mean(0)
    return _centred(matrix)


def _centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(-1, keepdim=True)


def _require_same_vocabulary(model: Any) -> None:
    if model.W_E.shape[0] != model.W_U.shape[1]:
        sizes = f"{model.W_E.shape[0]} tokens in, {model.W_U.shape[1]} out"
        raise ValueError(f"{sizes}: nothing can be copied from one vocabulary to another")
