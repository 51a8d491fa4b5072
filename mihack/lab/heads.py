"""Scores that say what an attention head attends to.

``transformer_lens.head_detector.detect_head`` measures the same idea on one prompt and wants a
tokenizer; toy models have none, and their periods differ from row to row, so these work on a batch
of token ids.  A pattern is what ``cache["pattern", layer]`` holds: [batch, head, query, key].
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Pattern = Float[Tensor, "batch head query key"]
Tokens = Int[Tensor, "batch position"]
Mask = Bool[Tensor, "batch query key"]


def attention_to(pattern: Pattern, keys: Mask) -> Float[Tensor, "head"]:
    """Mean attention that each head gives to the marked keys, over queries that have one.

    0 to 1; NaN where no query has a marked key.
    """
    weights = keys.to(pattern.dtype)
    has_key = keys.any(-1)  # [batch, query]
    mass = torch.einsum("bhqk,bqk->bhq", pattern, weights)
    mean: Tensor = (mass * has_key[:, None]).sum(dim=(0, 2)) / has_key.sum()
    return mean


def earlier(tokens: Tokens) -> Mask:
    """Keys strictly before the query: [batch, query, key]."""
    size = tokens.shape[1]
    before = torch.ones(size, size, dtype=torch.bool, device=tokens.device).tril(-1)
    return before.expand(tokens.shape[0], size, size)


def previous_token_keys(tokens: Tokens) -> Mask:
    """The key one place before the query."""
    size = tokens.shape[1]
    diagonal = torch.ones(size - 1, dtype=torch.bool, device=tokens.device).diag(-1)
    return diagonal.expand(tokens.shape[0], size, size)


def duplicate_token_keys(tokens: Tokens) -> Mask:
    """Earlier keys that hold the same token as the query."""
    same: Mask = tokens[:, :, None] == tokens[:, None, :]
    return same & earlier(tokens)


def induction_keys(tokens: Tokens) -> Mask:
    """Keys that FOLLOW an earlier copy of the query's token (Olsson et al. 2022, arXiv:2209.11895).

    With a block of length N repeated, the key for query q in the second copy is q - N + 1, one
    after the copy: q - N is the duplicate-token head's key, and the classic mistake.
    """
    keys = torch.zeros(*tokens.shape, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    keys[:, :, 1:] = duplicate_token_keys(tokens)[:, :, :-1]
    return keys & (earlier(tokens) | torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device))


def previous_token_score(pattern: Pattern, tokens: Tokens) -> Float[Tensor, "head"]:
    """Mean attention to the previous token, per head (0 to 1)."""
    return attention_to(pattern, previous_token_keys(tokens))


def duplicate_token_score(pattern: Pattern, tokens: Tokens) -> Float[Tensor, "head"]:
    """Mean attention to earlier copies of the current token, per head (0 to 1)."""
    return attention_to(pattern, duplicate_token_keys(tokens))


def induction_score(pattern: Pattern, tokens: Tokens) -> Float[Tensor, "head"]:
    """Mean attention to the tokens after earlier copies of the current one, per head (0 to 1)."""
    return attention_to(pattern, induction_keys(tokens))


def copying_score(circuit: Float[Tensor, "head vocab_in vocab_out"]) -> Float[Tensor, "head"]:
    """How far a full OV circuit W_E W_V W_O W_U raises its own input token, per head.

    Mean over input tokens of the standardised logit of the same token: 0 for a random matrix,
    about sqrt(vocabulary) for a perfect copier.
    """
    centred = circuit - circuit.mean(-1, keepdim=True)
    z = centred / centred.std(-1, keepdim=True).clamp_min(1e-12)
    score: Tensor = z.diagonal(dim1=-2, dim2=-1).mean(-1)
    return score
