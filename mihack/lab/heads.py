"""Scores that say what an attention head attends to.

``transformer_lens.head_detector.detect_head`` measures the same idea on one prompt and wants a
tokenizer; toy models have none, and their periods differ from row to row, so these work on a batch
of token ids.  A pattern is what ``cache["pattern", layer]`` holds: [batch, head, query, key].

    scores = head_scores(model, repeated_tokens(model))     # every head of any model
    print(table(scores))

What a head does with what it attends to is in its weights: see ``ov_circuits``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
    has_key = keys.any(-1)  # [batch, query]
    return _mass(pattern, keys) / has_key.sum()


def _mass(pattern: Pattern, keys: Mask) -> Float[Tensor, "head"]:
    """All the attention that goes to the marked keys, added up over the batch and the queries."""
    mass: Tensor = torch.einsum("bhqk,bqk->bhq", pattern, keys.to(pattern.dtype)).sum(dim=(0, 2))
    return mass


def earlier(tokens: Tokens) -> Mask:
    """Keys strictly before the query: [batch, query, key]."""
    size = tokens.shape[1]
    before = torch.ones(size, size, dtype=torch.bool, device=tokens.device).tril(-1)
    return before.expand(tokens.shape[0], size, size)


def previous_token_keys(tokens: Tokens) -> Mask:
    """The key one place before the query."""
    return offset_keys(tokens, 1)


def offset_keys(tokens: Tokens, offset: int) -> Mask:
    """The key ``offset`` places before the query (0: the query's own)."""
    size = tokens.shape[1]
    diagonal = torch.ones(size - offset, dtype=torch.bool, device=tokens.device).diag(-offset)
    return diagonal.expand(tokens.shape[0], size, size)


def first_token_keys(tokens: Tokens) -> Mask:
    """The first key, for all later queries: where heads rest that have nothing to do."""
    keys = torch.zeros(*tokens.shape, tokens.shape[1], dtype=torch.bool, device=tokens.device)
    keys[:, 1:, 0] = True
    return keys


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


KINDS: dict[str, Callable[[Tokens], Mask]] = {
    "previous token": previous_token_keys,
    "duplicate token": duplicate_token_keys,
    "induction": induction_keys,
    "first token": first_token_keys,
}


def repeated_tokens(model: Any, rows: int = 16, length: int = 64, *, seed: int = 0) -> Tokens:
    """Rows that repeat a block of random tokens, each row with a period of its own.

    [rows, length], or as long as the model's context.  The period is between a quarter and half of
    the length, so that a head that counts places does not pass for one that matches tokens.  Tokens
    of a block differ if the vocabulary is large enough.  The first token is BOS where the model's
    tokenizer puts it there.
    """
    generator = torch.Generator().manual_seed(seed)
    length = min(length, model.cfg.n_ctx)
    first = _bos(model)
    ids = torch.tensor([token for token in range(model.cfg.d_vocab) if token != first])
    size = length if first is None else length - 1
    tokens = torch.empty(rows, size, dtype=torch.long)
    for row in range(rows):
        period = int(torch.randint(max(1, size // 4), max(1, size // 2) + 1, (1,), generator=generator))
        enough = period <= len(ids)
        drawn = (
            torch.randperm(len(ids), generator=generator)[:period]
            if enough
            else torch.randint(len(ids), (period,), generator=generator)
        )
        tokens[row] = ids[drawn].repeat(-(-size // period))[:size]
    if first is not None:
        tokens = torch.cat([torch.full((rows, 1), first), tokens], 1)
    return tokens.to(next(model.parameters()).device)


def _bos(model: Any) -> int | None:
    """The token with which the model expects a prompt to begin, if any."""
    wanted = getattr(model.cfg, "default_prepend_bos", False)
    bos: int | None = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    return bos if wanted else None


@torch.no_grad()
def head_scores(
    model: Any,
    tokens: Tokens,
    kinds: Mapping[str, Callable[[Tokens], Mask]] = KINDS,
    *,
    rows_at_once: int = 8,
) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean attention of every head to the keys of each kind, 0 to 1; see ``attention_to``.

    ``tokens`` [row, position]: ``repeated_tokens`` makes some; with a BOS, what they say of "previous
    token" includes the step to it.  Patterns are added up as they appear, ``rows_at_once`` rows and
    one layer at a time, and not kept.  Raises ValueError if the model shows no patterns.
    """
    layers = len(model.blocks)
    mass = {kind: torch.zeros(layers, model.cfg.n_heads, dtype=torch.float64) for kind in kinds}
    queries = dict.fromkeys(kinds, 0)
    seen: set[int] = set()
    for rows in torch.split(tokens, rows_at_once):
        keys = {kind: find(rows) for kind, find in kinds.items()}
        for kind, mask in keys.items():
            queries[kind] += int(mask.any(-1).sum())
        hooks = [
            (f"blocks.{layer}.attn.hook_pattern", _adder(layer, keys, mass, seen)) for layer in range(layers)
        ]
        with model.hooks(fwd_hooks=hooks):
            model(rows, return_type=None)
    if len(seen) < layers:
        raise ValueError(f"{layers - len(seen)} layers show no attention pattern: use eager attention")
    return {kind: (mass[kind] / queries[kind]).float() for kind in kinds}


def _adder(
    layer: int, keys: Mapping[str, Mask], mass: Mapping[str, Tensor], seen: set[int]
) -> Callable[..., None]:
    def hook(pattern: Pattern, hook: Any = None) -> None:
        seen.add(layer)
        for kind, mask in keys.items():
            mass[kind][layer] += _mass(pattern, mask).double().cpu()

    return hook


def table(scores: Mapping[str, Float[Tensor, "layer head"]], count: int = 5) -> str:
    """The strongest heads by each score, as "layer.head value": a text of at most 80 columns."""
    rows = {}
    for kind, score in scores.items():
        order = score.flatten().nan_to_num(-torch.inf).argsort(descending=True)[:count].tolist()
        places = [divmod(place, score.shape[1]) for place in order]
        rows[kind] = [f"{layer}.{head} {score[layer, head]:.2f}" for layer, head in places]
    name = max(map(len, rows))
    cell = max(len(cell) for row in rows.values() for cell in row) + 2
    fit = (80 - name) // cell
    return "\n".join(
        kind.ljust(name) + "".join(text.rjust(cell) for text in row[:fit]) for kind, row in rows.items()
    )


def copying_score(circuit: Float[Tensor, "head vocab_in vocab_out"]) -> Float[Tensor, "head"]:
    """How far a full OV circuit W_E W_V W_O W_U raises its own input token, per head.

    Mean over input tokens of the standardised logit of the same token: 0 for a random matrix,
    about sqrt(vocabulary) for a perfect copier.
    """
    centred = circuit - circuit.mean(-1, keepdim=True)
    z = centred / centred.std(-1, keepdim=True).clamp_min(1e-12)
    score: Tensor = z.diagonal(dim1=-2, dim2=-1).mean(-1)
    return score
