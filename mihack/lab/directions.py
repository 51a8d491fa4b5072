"""Hooks that edit an activation along a direction: add it, take it out, turn it round.

For the direction of a probe (``probes``), a decoder row (``sae``) or a difference of means.  Each
function returns a TransformerLens hook: ``model.run_with_hooks(tokens, fwd_hooks=[(site, hook)])``.  Run the
same edit along ``random_like(direction, ...)`` as well: a large push changes any model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# (activation [batch, position, ..., d], hook point) -> the edited activation
Hook = Callable[..., Tensor]


def add(direction: Float[Tensor, "d"], strength: float = 1.0, positions: Any = None) -> Hook:
    """Add ``strength`` times the direction, in the units of the activations, at these positions or all."""
    return _at(positions, lambda value: value + strength * direction.to(value))


def project_out(
    directions: Float[Tensor, "k d"] | Float[Tensor, "d"],
    towards: Float[Tensor, "d"] | None = None,
    positions: Any = None,
) -> Hook:
    """Take out what lies along the directions, or set it to what ``towards`` has (such as the mean).

    Several directions need not be orthogonal: their whole span goes.  Raises ValueError if one is zero or
    they are linearly dependent.
    """
    basis = _orthonormal(directions)

    def edit(value: Tensor) -> Tensor:
        rows = basis.to(value)
        off = value if towards is None else value - towards.to(value)
        return value - (off @ rows.T) @ rows

    return _at(positions, edit)


def reflect(direction: Float[Tensor, "d"], about: Float[Tensor, "d"], positions: Any = None) -> Hook:
    """Mirror in the plane through ``about`` across the direction: what was on one side is on the other.

    ``Probe.on_boundary()`` is such a point for a binary probe: every example then gets the opposite score.
    """
    basis = _orthonormal(direction)

    def edit(value: Tensor) -> Tensor:
        row = basis.to(value)
        return value - 2 * ((value - about.to(value)) @ row.T) @ row

    return _at(positions, edit)


def random_like(direction: Float[Tensor, "*k d"], seed: int = 0) -> Float[Tensor, "*k d"]:
    """Random directions of the same lengths: the control."""
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(direction.shape, generator=generator).to(direction)
    control: Tensor = other / other.norm(dim=-1, keepdim=True) * direction.norm(dim=-1, keepdim=True)
    return control


def _orthonormal(directions: Tensor) -> Float[Tensor, "k d"]:
    rows = directions.detach().double().reshape(-1, directions.shape[-1])
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    if len(rows) > rows.shape[1] or sizes.min() < 1e-6:
        raise ValueError(f"the {len(rows)} directions are zero or depend on one another")
    basis: Tensor = left @ right
    return basis


def _at(positions: Any, edit: Callable[[Tensor], Tensor]) -> Hook:
    """Edit all positions (None), or those of axis 1 that are named."""

    def hook(value: Tensor, hook: Any = None) -> Tensor:
        if positions is None:
            return edit(value)
        edited = value.clone()
        edited[:, positions] = edit(value[:, positions])
        return edited

    return hook
