"""Activations whose features are known: sparse features in superposition, to test a dictionary on.

The data of Sharkey, Braun & Millidge 2022 ("Taking features out of superposition with sparse
autoencoders"): more directions than dimensions, few of them active at once.  Features may also come in
groups that are active together, or under a parent without which they are never active; the latter is
where absorption comes from (Chanin et al. 2024, arXiv:2409.14507).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Planted:
    """Planted features: ``directions`` [feature, d] of unit norm, how often each is active, and the seed.

    ``group`` [feature]: features of one number (not -1) are active together or not at all.  ``parent``
    [feature]: a feature with a parent (not -1) is active only where its parent is, with its own
    probability given that; parents come before their children.
    """

    directions: Float[Tensor, "feature d"]
    probability: Float[Tensor, "feature"]
    group: Int[Tensor, "feature"]
    parent: Int[Tensor, "feature"]
    low: float
    high: float
    noise: float
    seed: int

    @classmethod
    def draw(
        cls,
        features: int,
        d: int,
        *,
        probability: float | Tensor = 0.05,
        groups: list[list[int]] | None = None,
        parents: dict[int, int] | None = None,
        low: float = 0.5,
        high: float = 1.5,
        noise: float = 0.0,
        seed: int = 0,
    ) -> Planted:
        """Random directions; active features are uniform on [low, high], ``noise`` is per dimension.

        Raises ValueError if a parent does not come before its child, or a feature is in two groups.
        """
        # not the seed itself: a dictionary made with the same one would start at the answer
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 900_000_011)
        rows = torch.randn(features, d, generator=generator)
        group, parent = torch.full((features,), -1), torch.full((features,), -1)
        for number, members in enumerate(groups or []):
            if (group[members] != -1).any():
                raise ValueError(f"group {number} shares a feature with an earlier one")
            group[members] = number
        for child, above in (parents or {}).items():
            if not 0 <= above < child:
                raise ValueError(f"the parent of {child} is {above}: parents come before their children")
            parent[child] = above
        chance = torch.as_tensor(probability, dtype=torch.float32).expand(features).clone()
        return cls(rows / rows.norm(dim=1, keepdim=True), chance, group, parent, low, high, noise, seed)

    def codes(self, step: int, batch: int) -> Float[Tensor, "batch feature"]:
        """The features of a batch: the same for the same step, on any machine."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 1)
        features = len(self.directions)
        draw = torch.rand(batch, features, generator=generator)
        size = torch.rand(batch, features, generator=generator) * (self.high - self.low) + self.low
        for number in range(int(self.group.max()) + 1):
            members = (self.group == number).nonzero().squeeze(1)
            draw[:, members] = draw[:, members[:1]]  # one draw for all of them
        active = draw < self.probability
        for child in (self.parent >= 0).nonzero().squeeze(1).tolist():
            active[:, child] &= active[:, int(self.parent[child])]
        return torch.where(active, size, 0.0)

    def activations(self, step: int, batch: int) -> Float[Tensor, "batch d"]:
        """What a model with these features would hold."""
        x = self.codes(step, batch) @ self.directions
        if self.noise:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 500_000_000)
            x = x + self.noise * torch.randn(x.shape, generator=generator)
        return x
