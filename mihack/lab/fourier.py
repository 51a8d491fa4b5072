"""The Fourier basis of the integers mod p.

Networks trained on modular addition tend to store numbers as sines and cosines of a few
frequencies (Nanda et al. 2023, arXiv:2301.05217; Gromov 2023, arXiv:2301.02679).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def fourier_basis(p: int) -> Float[Tensor, "component p"]:
    """Orthonormal rows: constant, then cos and sin of frequency 1, 2, ..., (p - 1) / 2.

    ``p`` must be odd.  Row 2k - 1 is the cosine and row 2k the sine of frequency k.
    """
    if p < 3 or p % 2 == 0:
        raise ValueError(f"the basis is written for an odd modulus of at least 3, not {p}")
    x = torch.arange(p, dtype=torch.float64)
    rows = [torch.full((p,), 1 / math.sqrt(p), dtype=torch.float64)]
    for k in range(1, p // 2 + 1):
        angle = 2 * math.pi * k * x / p
        rows += [torch.cos(angle) * math.sqrt(2 / p), torch.sin(angle) * math.sqrt(2 / p)]
    return torch.stack(rows).float()


def frequency_power(table: Float[Tensor, "p feature"]) -> Float[Tensor, "frequency"]:
    """Share of a table's power at each frequency 1 .. (p - 1) / 2, without the constant; sums to 1.

    ``table[x]`` is what the network holds for the number x, for example a row of W_E.
    """
    power = (fourier_basis(table.shape[0]).to(table) @ table).pow(2).sum(-1)
    per_frequency = power[1::2] + power[2::2]
    return per_frequency / per_frequency.sum()


def keep_frequencies(table: Float[Tensor, "p feature"], frequencies: list[int]) -> Float[Tensor, "p feature"]:
    """The part of ``table`` at the given frequencies (1-based), and its constant."""
    basis = fourier_basis(table.shape[0]).to(table)
    rows = [0] + [row for k in frequencies for row in (2 * k - 1, 2 * k)]
    kept: Tensor = basis[rows].T @ (basis[rows] @ table)
    return kept
