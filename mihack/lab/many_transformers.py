"""Many one-layer transformers at once, written out as a few batched products.

For the models of modular addition and the like: short inputs of one length, of which only the last
position is read.  ``many.Many`` runs any model under vmap, but does all that the model does; here

- keys and values are computed once for each (position, token) that occurs, not for each example;
- only the last position has a query, an MLP and logits;
- all copies share each product, as ``bmm`` over a leading axis.

Covered: native models with one layer, learned positions, no norm, an MLP with ReLU or GELU or none,
attention that the last position sees whole.  ``LastPosition`` refuses others.  Equal to the model's own
logits and training (``tests/test_lab_many_transformers.py``); ``benchmarks/many.py`` has the ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
INNER = "._original_component"


class LastPosition:
    """Logits at the last position of fixed ``tokens``, for stacked parameters.

    ``tokens`` [example, position] are the same for all copies and all steps (full batch).
    """

    def __init__(self, model: Any, tokens: Int[Tensor, "example position"]) -> None:
        """Raises ValueError for a model that the formulas below do not describe."""
        cfg = model.cfg
        learned = (getattr(cfg, "positional_embedding_type", None) or "standard") == "standard"
        fits = {
            "n_layers=1": cfg.n_layers == 1,
            "normalization_type=None": cfg.normalization_type is None,
            "learned positions": learned,
            "ReLU or GELU": bool(getattr(cfg, "attn_only", False)) or cfg.act_fn in ACTIVATIONS,
            "no grouped queries": getattr(cfg, "n_key_value_heads", None) in (None, cfg.n_heads),
        }
        wrong = [name for name, good in fits.items() if not good]
        if wrong:
            raise ValueError(f"written for {', '.join(wrong)}: use many.train_many with the model itself")
        self.heads, self.d_head = cfg.n_heads, cfg.d_head
        self.activation = None if getattr(cfg, "attn_only", False) else ACTIVATIONS[cfg.act_fn]
        # the distinct tokens of each position, and which of them each example has
        each = [column.unique(return_inverse=True) for column in tokens.T]
        self.ids = torch.cat([ids for ids, _ in each])
        self.places = torch.cat([torch.full((len(ids),), p) for p, (ids, _) in enumerate(each)])
        starts = torch.tensor([0, *(len(ids) for ids, _ in each)]).cumsum(0)
        self.rows = torch.stack([inverse + starts[p] for p, (_, inverse) in enumerate(each)])

    def logits(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, "copy example vocab"]:
        """Logits at the last position, for parameters stacked by ``many.Many``."""
        named = {name.replace(INNER, ""): value for name, value in parameters.items()}
        device = named["pos.weight"].device
        ids, places, rows = (t.to(device) for t in (self.ids, self.places, self.rows))
        x = named["tok_embed.weight"][:, ids] + named["pos.weight"][:, places]  # [copy, distinct, d_model]
        q, k, v = (linear(x, named, f"layers.0.attn.{part}") for part in "qkv")
        # [copy, head, distinct, d_head]; the last position's tokens come last
        shape = (*x.shape[:2], self.heads, self.d_head)
        q, k, v = (t.reshape(shape).transpose(1, 2) for t in (q, k, v))
        first = int(self.rows[-1].min())
        scores = q[:, :, first:] @ k.mT / self.d_head**0.5  # [copy, head, last token, distinct]
        # [copy, head, example, position]: this example's last token against each of its tokens
        flat, width = scores.flatten(2), scores.shape[-1]
        # index_select throughout: its gradient is several times faster on a CPU than that of x[:, rows]
        picked = [flat.index_select(2, (rows[-1] - first) * width + row) for row in rows]
        pattern = torch.stack(picked).softmax(0)[..., None]  # [position, copy, head, example, 1]
        parts = [pattern[p] * v.index_select(2, row) for p, row in enumerate(rows)]
        z = torch.stack(parts).sum(0).transpose(1, 2).flatten(2)  # [copy, example, head * d_head]
        stream = x.index_select(1, rows[-1]) + linear(z, named, "layers.0.attn.o")
        if self.activation is not None:
            hidden = self.activation(linear(stream, named, "layers.0.mlp.fc_in"))
            stream = stream + linear(hidden, named, "layers.0.mlp.fc_out")
        return linear(stream, named, "head")


def linear(
    x: Float[Tensor, "copy row inner"], named: Mapping[str, Tensor], name: str
) -> Float[Tensor, "copy row outer"]:
    """Each copy's own linear layer."""
    weight, bias = named[f"{name}.weight"].mT, named.get(f"{name}.bias")
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias[:, None], x, weight)
