"""Measures of how features share dimensions, for one weight matrix or many at once.

``W`` is [..., hidden, feature]: column i is the direction that feature i is written to, as in the toy
models of superposition (Elhage et al. 2022, arXiv:2209.10652).  Leading axes are copies of the model.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# columns shorter than this have no direction worth the name
SHORT = 1e-6


def sparse(
    probability: Float[Tensor, "*setting"], batch: int, features: int, generator: torch.Generator
) -> Float[Tensor, "setting batch features"]:
    """Features that are zero but with the setting's probability, and then uniform on [0, 1].

    ``probability`` is [setting] or [setting, feature].  All settings see the same draws: a value that is
    there at a low probability is there at any higher one, so that what differs between settings is not
    the luck of the data.  Where copies must differ in their data, use ``many.sparse_features``.
    """
    value = torch.rand(batch, features, generator=generator)
    chance = torch.rand(batch, features, generator=generator)
    threshold = probability.cpu().reshape(len(probability), 1, -1)
    return torch.where(chance < threshold, value, 0.0)


def unit(W: Float[Tensor, "*copy hidden feature"]) -> Float[Tensor, "*copy hidden feature"]:
    """Columns of length one; those that have next to none become zero."""
    length = W.norm(dim=-2, keepdim=True)
    return torch.where(length > SHORT, W / length.clamp_min(SHORT), 0.0)


def cosines(W: Float[Tensor, "*copy hidden feature"]) -> Float[Tensor, "*copy feature feature"]:
    """The cosine of every two features' directions."""
    direction = unit(W)
    return direction.mT @ direction


def dimensionality(W: Float[Tensor, "*copy hidden feature"]) -> Float[Tensor, "*copy feature"]:
    """The share of a dimension that each feature has: |W_i|^2 / sum_j (unit(W_i) . W_j)^2.

    One for a feature with a direction to itself, 1/2 in an antipodal pair, 2/5 in a pentagon, 0 for one
    that is not there.  Summed over features it is at most the number of dimensions, up to rounding.
    """
    overlap = (unit(W).mT @ W).square().sum(-1)
    return W.square().sum(-2) / overlap.clamp_min(SHORT)


def on_axes(W: Float[Tensor, "*copy hidden feature"]) -> Float[Tensor, "*copy feature"]:
    """The largest share of a feature's squared length that lies on one hidden unit: 1 if on an axis."""
    return unit(W).square().amax(-2)


def purity(W: Float[Tensor, "*copy hidden feature"]) -> Float[Tensor, "*copy hidden"]:
    """The largest share of a hidden unit's squared weights that belongs to one feature: 1 if to it alone."""
    squares = W.square()
    return squares.amax(-1) / squares.sum(-1).clamp_min(SHORT)


def rotations(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count size size"]:
    """Random rotations and reflections, all equally likely (QR of Gaussian matrices, signs put right)."""
    q, r = torch.linalg.qr(torch.randn(count, size, size, generator=generator))
    turned: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return turned


def gaps(W: Float[Tensor, "2 feature"], shortest: float = 0.5) -> list[float]:
    """Angles in degrees between neighbouring features of a plane, ascending; short ones are left out.

    Five of 72 for a regular pentagon, four of 90 for two antipodal pairs.
    """
    kept = W[:, W.norm(dim=0) > shortest]
    if kept.shape[1] < 2:
        return []
    angle = torch.atan2(kept[1], kept[0]).sort().values
    round_trip = torch.cat([angle, angle[:1] + 2 * math.pi]).diff()
    return sorted(torch.rad2deg(round_trip).tolist())


def figure_in_plane(W: Float[Tensor, "2 feature"], shortest: float = 0.5, within: float = 12.0) -> str:
    """What the stored features of a plane look like, by the angles between neighbours.

    ``pentagon``, ``square`` (two antipodal pairs), ``triangle``, ``digon`` or ``right angle``, with every
    angle within so many degrees; ``other`` is the rest.
    """
    found = gaps(W, shortest)
    shapes = {
        "pentagon": [72.0] * 5,
        "square": [90.0] * 4,
        "triangle": [120.0] * 3,
        "digon": [180.0] * 2,
        "right angle": [90.0, 270.0],
    }
    for name, angles in shapes.items():
        if len(angles) != len(found):
            continue
        if all(abs(a - b) <= within for a, b in zip(angles, found, strict=True)):
            return name
    return "other"
