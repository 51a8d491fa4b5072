"""What a head does with what it attends to: scores from the weights of its OV circuit alone.

The full OV circuit W_E W_V W_O W_U says by how much attending to a token raises every logit (Elhage et
al. 2021, "A Mathematical Framework for Transformer Circuits").  Vocabulary squared is too large for a
real model, but each factor has only d_head columns: everything here stays factored and goes through
the vocabulary in parts.  Norm weights are folded in on the way (not in the model), logits are
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
TOKENS_AT_ONCE = 4096  # parts of the vocabulary: 12 MB each where d_model is 768


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
    _require_same_vocabulary(model)
    vectors = model.W_E if embedding is None else embedding
    ids = torch.arange(len(vectors)) if tokens is None else tokens
    covariance = _covariance(model)
    total = torch.zeros(len(model.blocks), model.cfg.n_heads, dtype=torch.float64)
    for part in torch.split(ids.to(vectors.device), TOKENS_AT_ONCE):
        unembedding = _unembedding(model, part)
        for layer, (values, out) in enumerate(_layers(model)):
            given = torch.einsum("nd,hde->hne", _read(model, layer, vectors[part]), values)
            own = (given * torch.einsum("nd,hed->hne", unembedding, out)).sum(-1)
            spread = torch.einsum("hne,hef,hnf->hn", given, out @ covariance @ out.mT, given)
            total[layer] += (own / spread.clamp_min(1e-24).sqrt()).double().sum(-1).cpu()
    return (total / len(ids)).float()


def _covariance(model: Any) -> Float[Tensor, "d_model d_model"]:
    """Covariance of the unembedding's columns, over the vocabulary."""
    total = torch.zeros(model.cfg.d_model, model.cfg.d_model, device=model.W_U.device)
    for part in torch.split(torch.arange(model.W_U.shape[1], device=total.device), TOKENS_AT_ONCE):
        columns = _unembedding(model, part)
        total += columns.T @ columns
    covariance: Tensor = total / (model.W_U.shape[1] - 1)
    return covariance


@torch.no_grad()
def copying_eigenvalues(model: Any, *, embedding: Vectors | None = None) -> Float[Tensor, "layer head"]:
    """Sum of the full OV circuit's eigenvalues over the sum of their sizes (Elhage et al. 2021).

    1: every direction of token space is written back as itself, a copying head; -1: each is
    suppressed; 0: neither.  The eigenvalues other than 0 are those of the small matrix W_O W_U W_E W_V.
    """
    _require_same_vocabulary(model)
    vectors = model.W_E if embedding is None else embedding
    through = torch.zeros(model.cfg.d_model, model.cfg.d_model, device=vectors.device)  # W_U W_E
    for part in torch.split(torch.arange(len(vectors), device=vectors.device), TOKENS_AT_ONCE):
        given = _centred(vectors[part]) if centres(model) else vectors[part]
        through += _unembedding(model, part).T @ given
    scores = []
    for layer, (values, out) in enumerate(_layers(model)):
        weight = norm_weight(model, getattr(model.blocks[layer], "ln1", None))
        small = out @ (through if weight is None else through * weight) @ values  # [head, d_head, d_head]
        eigenvalues = torch.linalg.eigvals(small.double())
        scores.append(eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1).clamp_min(1e-12))
    return torch.stack(scores).float().cpu()


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
    unembedding = _unembedding(model, sequence)
    wanted = (torch.arange(len(sequence), device=vectors.device) + 1) % len(sequence)
    count = len(sequence) if cyclic else len(sequence) - 1
    scores = []
    for layer, (values, out) in enumerate(_layers(model)):
        logits = _read(model, layer, vectors[sequence]) @ values @ out @ unembedding.T  # [head, n, n]
        scores.append((logits.argmax(-1) == wanted)[:, :count].double().mean(-1))
    return torch.stack(scores).float().cpu()


def ov_scores(model: Any, *, embedding: Vectors | None = None) -> dict[str, Float[Tensor, "layer head"]]:
    """Both copying scores of every head, to stand beside ``heads.head_scores``."""
    return {
        "copying": copying(model, embedding=embedding),
        "OV eigenvalues": copying_eigenvalues(model, embedding=embedding),
    }


def _layers(
    model: Any,
) -> Iterator[tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]]:
    """W_V and W_O of every layer; heads that share keys and values each get a copy of their W_V."""
    for values, out in zip(model.W_V, model.W_O, strict=True):
        yield values.repeat_interleave(len(out) // len(values), 0), out


def _read(model: Any, layer: int, vectors: Tensor) -> Tensor:
    """Embeddings as a layer's heads read them, but for the norm's scale.

    Copying and successor scores do not depend on it; the eigenvalues take it as equal for all tokens.
    """
    weight = norm_weight(model, getattr(model.blocks[layer], "ln1", None))
    given = _centred(vectors) if centres(model) else vectors
    return given if weight is None else given * weight


def _unembedding(model: Any, ids: Int[Tensor, "n"]) -> Float[Tensor, "n d_model"]:
    """Columns of W_U with the final norm's weight, centred over the vocabulary (a softmax sees no mean)."""
    columns = model.W_U.T[ids] - model.W_U.mean(1)
    weight = norm_weight(model, model.ln_final)
    if weight is not None:
        columns = columns * weight
    return _centred(columns) if centres(model) else columns


def _centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(-1, keepdim=True)


def _require_same_vocabulary(model: Any) -> None:
    if model.W_E.shape[0] != model.W_U.shape[1]:
        sizes = f"{model.W_E.shape[0]} tokens in, {model.W_U.shape[1]} out"
        raise ValueError(f"{sizes}: nothing can be copied from one vocabulary to another")
