"""Handwritten digits of 8 by 8 pixels, and drawn stimuli of the same size.

The pictures come with scikit-learn (``load_digits``, BSD-3-Clause, nothing is downloaded): 1,797 scans of
the test half of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine
Learning Repository, 1998, doi 10.24432/C50P49, CC BY 4.0).  Drawn stimuli (gratings, lines, arcs, blobs)
let one ask what a unit responds to without any digit in the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SIZE = 8  # pixels along each side


@dataclass(frozen=True)
class Digits:
    """Pictures [image, 1, row, column] in 0 to 1, and what they show, [image]."""

    train: Float[Tensor, "train 1 row column"]
    train_labels: Int[Tensor, "train"]
    test: Float[Tensor, "test 1 row column"]
    test_labels: Int[Tensor, "test"]


def load(seed: int, device: torch.device, held_out: float = 0.25) -> Digits:
    """The digits, a share of them held out at random.  Needs scikit-learn."""
    from sklearn.datasets import load_digits  # a heavy import that only this function needs

    data = load_digits()
    images = torch.as_tensor(data.images).float().div(16).unsqueeze(1).to(device)
    labels = torch.as_tensor(data.target).long().to(device)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(device)
    test, train = order.tensor_split([int(held_out * len(order))])
    return Digits(images[train], labels[train], images[test], labels[test])


def shifted(images: Float[Tensor, "n 1 row column"], generator: torch.Generator) -> Tensor:
    """Each picture moved by -1, 0 or 1 pixel along both axes, with blank paper behind it."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(3, (2, len(images), 1), generator=generator).to(images.device)
    span = torch.arange(SIZE, device=images.device)
    rows, columns = (down + span)[:, :, None], (right + span)[:, None, :]
    return padded[torch.arange(len(images), device=images.device)[:, None, None], 0, rows, columns][:, None]


def gratings(
    angles: int, phases: int, period: float = 4.0
) -> tuple[Float[Tensor, "angle phase row column"], Float[Tensor, "angle"]]:
    """Sine gratings with values in 0 to 1, and the orientation of their stripes in radians.

    Orientations are spread over half a turn, 0 being horizontal stripes; ``period`` is in pixels.
    """
    angle = torch.arange(angles) * math.pi / angles
    phase = torch.arange(phases) * 2 * math.pi / phases
    rows, columns = _across()
    across = angle.cos()[:, None, None] * rows + angle.sin()[:, None, None] * columns
    wave = torch.sin(2 * math.pi * across[:, None] / period + phase[None, :, None, None])
    return 0.5 + 0.5 * wave, angle


def _across() -> tuple[Float[Tensor, "row column"], Float[Tensor, "row column"]]:
    """Rows and columns of the pixels, counted from the middle of the picture."""
    place = torch.arange(SIZE) - (SIZE - 1) / 2
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    return rows, columns


def lines(
    angles: int, offsets: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0), length: float = 7.0
) -> Float[Tensor, "angle offset row column"]:
    """Straight strokes about one pixel wide, at orientations over half a turn; 0 is horizontal.

    ``offsets``: how far beside the middle they lie, and ``length``, both in pixels.  By half a pixel, since a
    stroke between two rows of pixels is fainter than one along a row.
    """
    rows, columns = _across()
    angle = torch.arange(angles)[:, None, None, None] * math.pi / angles
    along = columns * angle.cos() + rows * angle.sin()
    beside = rows * angle.cos() - columns * angle.sin() - torch.tensor(offsets)[:, None, None]
    past = (along.abs() - length / 2).clamp(min=0)
    return (1.1 - torch.hypot(beside, past)).clamp(0, 1)


def arcs(
    angles: int, radii: tuple[float, ...] = (1.75, 2.25, 3.0), length: float = 7.0
) -> Float[Tensor, "angle radius row column"]:
    """The same strokes bent to a radius (pixels), centred in the picture (to a quarter of a pixel).

    Orientations are spread over a whole turn: an arc bulges to the right (0), down, to the left, or up.
    """
    rows, columns = _across()
    angle = torch.arange(angles)[:, None, None, None] * 2 * math.pi / angles
    radius = torch.tensor(radii)[:, None, None]
    half = (length / 2 / radius).clamp(max=0.95 * math.pi)  # radians to each side of the bulge
    inward = radius * half.sin() / half  # from the circle's centre to the arc's centre of mass
    x, y = columns + inward * angle.cos(), rows + inward * angle.sin()
    turn = (torch.atan2(y, x) - angle + math.pi) % (2 * math.pi) - math.pi  # from the bulge
    past = (turn.abs() - half).clamp(min=0) * radius
    return (1.1 - torch.hypot(torch.hypot(x, y) - radius, past)).clamp(0, 1)


def selectivity(
    tuning: Float[Tensor, "angle unit"], angle: Float[Tensor, "angle"]
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """How sharply each unit is tuned to orientation, and to which (radians, 0 to pi).

    One minus the circular variance: the length of the mean of exp(2i angle), weighted by the response,
    which must not be negative.  0: all orientations alike; 1: one orientation alone.  A unit that
    never responds has 0.
    """
    weight = tuning / tuning.sum(0).clamp(min=1e-12)
    vector = (weight * torch.exp(2j * angle)[:, None]).sum(0)
    preferred: Tensor = (vector.angle() / 2) % math.pi
    return vector.abs(), preferred
