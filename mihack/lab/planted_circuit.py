"""A transformer whose circuit is certain, because its weights were written by hand: to try techniques on.

The task is to look a key up.  A prompt is ``<start> k v k v k v k v q <end>``, where q is one of the keys;
at ``<end>`` the model names the value that stood behind it.  Three heads do that, one after the other:

    previous  (layer 0)  at every value, writes down which key stands before it
    match     (layer 1)  at q, finds the value with that key before it, and writes it down
    mover     (layer 3)  at <end>, fetches what the match wrote, and turns it into logits

Four heads are there to mislead, each in a way that is known from language models:

    constant  (layer 0)  writes the same on every prompt, and without it the match looks away
    crowd     (layer 0)  raises the logits of all values in the prompt alike
    backup    (layer 2)  does the match's work, but only where the match wrote nothing, as backup name
                         movers do (Wang et al. 2022, arXiv:2211.00593)
    decoy     (layer 2)  copies the answer to where nobody reads

All other heads are random and weak.  Roles have their places in a layer dealt out by the seed, and the
whole stream is turned by a random rotation, so that no single dimension means anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

LAYER_OF = {"previous": 0, "constant": 0, "crowd": 0, "match": 1, "backup": 2, "decoy": 2, "mover": 3}
LAYERS, HEADS, PAIRS, KEYS, VALUES = 4, 6, 4, 8, 8
LENGTH = 2 * PAIRS + 3
QUERY, END = LENGTH - 2, LENGTH - 1  # positions
START_TOKEN, END_TOKEN = KEYS + VALUES, KEYS + VALUES + 1
D_HEAD = 12
SHARP = 30.0  # attention score of heads that look at a fixed position: certain, in every run
# What the residual stream holds, and in how many dimensions.
SPACES = {"token": KEYS + VALUES + 2, "position": LENGTH, "one": 1, "key before": KEYS, "found": VALUES,
          "done": 1, "bias": 1, "out": VALUES, "unread": VALUES}  # fmt: skip
D_MODEL = sum(SPACES.values())


@dataclass(frozen=True)
class PlantedCircuit:
    """The model, in eval mode, and what its heads are: role -> (layer, head).

    ``circuit``: the roles that carry which value is right, in order.  Heads without a role are random.
    """

    model: TransformerBridge
    roles: dict[str, tuple[int, int]]
    circuit: tuple[str, ...] = ("previous", "match", "mover")

    def role(self, layer: int, head: int) -> str:
        """The role of a head, "random" if it has none."""
        return next((name for name, place in self.roles.items() if place == (layer, head)), "random")

    def truth(self) -> Float[Tensor, "layer head"]:
        """1 for the heads of the circuit, 0 for all others."""
        truth = torch.zeros(LAYERS, HEADS)
        for name in self.circuit:
            truth[self.roles[name]] = 1
        return truth


@dataclass(frozen=True)
class Lookups:
    """Prompts, the same prompts with something exchanged, and both answers.

    ``tokens`` and ``corrupted``: [row, position]; ``answers``: the right value in ``tokens``, ``others``:
    in ``corrupted`` [row], as indices of the model's logits.
    """

    tokens: Int[Tensor, "row position"]
    corrupted: Int[Tensor, "row position"]
    answers: Int[Tensor, "row"]
    others: Int[Tensor, "row"]


def planted_circuit(
    seed: int = 0, *, sharpness: float = 20.0, noise: float = 0.2, scale: float = 6.0
) -> PlantedCircuit:
    """Write the weights.

    ``sharpness``: the attention score at which match and backup find their key; the larger, the more
    their softmax is saturated.  ``noise``: norm of what a random head writes, where tokens have norm 1.
    ``scale``: logits that the mover gives to the right value (nats).  Raises ValueError for a negative
    ``noise``, or a ``sharpness`` that is not positive.
    """
    if noise < 0 or sharpness <= 0:
        raise ValueError(f"noise {noise} must be at least 0, and sharpness {sharpness} above 0")
    generator = torch.Generator().manual_seed(seed)
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(
            d_model=D_MODEL, d_head=D_HEAD, n_heads=HEADS, n_layers=LAYERS, n_ctx=LENGTH,
            d_vocab=KEYS + VALUES + 2, d_vocab_out=VALUES, attn_only=True, normalization_type=None, seed=seed,
        ),
        device="cpu",
    )  # fmt: skip
    model.eval()
    spaces = _spaces(generator)
    roles: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        places = torch.randperm(HEADS, generator=generator).tolist()
        names = [name for name, at in LAYER_OF.items() if at == layer]
        roles |= {name: (layer, place) for name, place in zip(names, places, strict=False)}
    heads = _written(spaces, sharpness, scale)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _module(model.embed).weight.copy_(spaces["token"] + spaces["one"])
        _module(model.pos_embed).weight.copy_(spaces["position"])
        _module(model.unembed).weight.copy_(spaces["out"])
        for layer in range(LAYERS):
            for head in range(HEADS):
                name = next((n for n, place in roles.items() if place == (layer, head)), None)
                _write(model, layer, head, _random(generator, noise) if name is None else heads[name])
    return PlantedCircuit(model, roles)


def lookups(rows: int, seed: int = 0, exchange: str = "keys") -> Lookups:
    """Random prompts, and what makes another answer of them.

    ``exchange``: "keys" lets the key that is asked for trade places with another, "values" their values,
    "query" asks for the other key.  Each gives the same other answer, and each is seen by other heads.
    Raises ValueError for anything else.
    """
    if exchange not in {"keys", "values", "query"}:
        raise ValueError(f"exchange {exchange!r}: keys, values or query")
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.rand(rows, n, generator=generator).argsort(-1)[:, :PAIRS] for n in (KEYS, VALUES))
    two = torch.rand(rows, PAIRS, generator=generator).argsort(-1)[:, :2]  # the pair asked for, another one
    swapped = torch.arange(PAIRS).repeat(rows, 1).scatter(1, two, two.flip(1))
    asked, other = keys.gather(1, two).unbind(1)
    answers, others = values.gather(1, two).unbind(1)
    corrupted = {
        "keys": (keys.gather(1, swapped), values, asked),
        "values": (keys, values.gather(1, swapped), asked),
        "query": (keys, values, other),
    }
    return Lookups(_prompt(keys, values, asked), _prompt(*corrupted[exchange]), answers, others)


def _prompt(keys: Tensor, values: Tensor, asked: Tensor) -> Int[Tensor, "row position"]:
    rows = len(keys)
    pairs = torch.stack([keys, values + KEYS], -1).view(rows, 2 * PAIRS)
    start, end = (torch.full((rows, 1), token) for token in (START_TOKEN, END_TOKEN))
    return torch.cat([start, pairs, asked[:, None], end], 1)


Head = tuple[Tensor, Tensor, Tensor, Tensor]  # query, key, value: [d_head, d_model]; out: [d_model, d_head]


def _spaces(generator: torch.Generator) -> dict[str, Float[Tensor, "dimension d_model"]]:
    """Orthonormal directions for everything that the stream holds, turned at random."""
    turn = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))[0]
    return dict(zip(SPACES, turn.split(list(SPACES.values())), strict=True))


def _written(spaces: dict[str, Tensor], sharpness: float, scale: float) -> dict[str, Head]:
    """The heads that have a role; attention scores are those before the softmax."""
    token, position, one = spaces["token"], spaces["position"], spaces["one"]
    keys, values, start = token[:KEYS], token[KEYS : KEYS + VALUES], token[START_TOKEN][None]
    end = token[END_TOKEN][None]
    missing = 2 * SHARP * (one - spaces["bias"])  # looks at the start where the constant head is silent
    behind = (SHARP * position[1:], position[:-1])  # looks one position back
    find = sharpness * keys
    return {
        "previous": _head(*behind, keys, spaces["key before"]),
        "constant": _head(SHARP * one, start, start, spaces["bias"]),
        "crowd": _head(torch.cat([SHARP * end, SHARP / 2 * one]), torch.cat([values.sum(0)[None], start]),
                       values, PAIRS * scale / 2 * spaces["out"]),
        "match": _head(torch.cat([find, missing]), torch.cat([spaces["key before"], start]),
                       values, spaces["found"] + spaces["done"]),
        "backup": _head(torch.cat([find, missing + 4 * sharpness * spaces["done"]]),
                        torch.cat([spaces["key before"], start]), values, spaces["found"]),
        "decoy": _head(SHARP * position, position, spaces["found"], spaces["unread"]),
        "mover": _head(*behind, spaces["found"], scale * spaces["out"]),
    }  # fmt: skip


def _head(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> Head:
    """A head from the directions that it compares, and those that it reads and writes in their place."""

    def rows(directions: Tensor) -> Tensor:
        return torch.cat([directions, torch.zeros(D_HEAD - len(directions), D_MODEL)])

    return rows(query) * D_HEAD**0.5, rows(key), rows(value), rows(out).T


def _random(generator: torch.Generator, noise: float) -> Head:
    query, key, value, out = (torch.randn(D_HEAD, D_MODEL, generator=generator) for _ in range(4))
    # the stream has about norm 2, so that values have it too when divided by the root of d_head
    return query / D_HEAD**0.5, key / D_HEAD**0.5, value / D_HEAD**0.5, noise * out.T / D_MODEL**0.5 / 2


def _write(model: Any, layer: int, head: int, weights: Head) -> None:
    mine = slice(head * D_HEAD, (head + 1) * D_HEAD)
    attention = model.blocks[layer].attn
    for name, weight in zip("qkv", weights, strict=False):
        _module(getattr(attention, name)).weight[mine] = weight
    _module(attention.o).weight[:, mine] = weights[3]


def _module(bridge: Any) -> Any:
    return bridge.original_component
