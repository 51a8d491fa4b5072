"""How far an estimate goes with the exact effects that it stands for.

Attribution patching is fast and wrong in known ways (Kramar et al. 2024, arXiv:2403.00745: attention
that is saturated, effects that cancel).  So patch a sample exactly, and say how far the two agree:

    patcher = Patcher(model, clean, corrupted, metric)
    estimate = gradient_maps(model, clean, corrupted, metric)
    print(agreement(patcher.heads(), estimate.heads, baseline=patcher.baseline()[1]))

Correlations look at all cells; most of these do nothing, so ask of the strongest ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# A map of effects: a tensor of any shape, or one number for each thing with a name (edges).
Effects = Tensor | Mapping[Any, float]


@dataclass(frozen=True)
class Agreement:
    """What ``agreement`` found; print it for a report.

    ``pearson`` and ``spearman``: -1 to 1, NaN where one side is constant.  ``sign``: share of the
    ``count`` cells with the strongest exact effect on whose sign both agree.  ``overlap``: share of
    these that are among the estimate's ``count`` strongest.  ``worst``: (cell, exact, estimate) where
    they differ most, in units of the metric.
    """

    cells: int
    count: int
    pearson: float
    spearman: float
    sign: float
    overlap: float
    worst: list[tuple[str, float, float]]

    def __str__(self) -> str:
        lines = [
            f"Estimate against exact effect, {self.cells} cells",
            f"  correlation       Pearson {self.pearson:.2f}, Spearman {self.spearman:.2f}",
            f"  {f'the {self.count} strongest':<18}{self.overlap:.0%} in both, {self.sign:.0%} of one sign",
            f"  {'furthest apart':<40}{'exact':>12}{'estimate':>12}",
        ]
        lines += [f"  {_short(cell):<40}{exact:>12.3g}{guess:>12.3g}" for cell, exact, guess in self.worst]
        return "\n".join(lines)


def agreement(exact: Effects, approximate: Effects, *, baseline: float, count: int = 10) -> Agreement:
    """Compare two maps cell by cell.

    ``baseline``: the metric without any patch, which is taken from both, since the sign of an effect
    is that of the change.  For maps of ``Patcher`` that is the metric on the corrupted prompts
    (``patcher.baseline()[1]``); for edges, which are changes already, it is 0.  Raises ValueError for
    maps of unequal shape, or if the edges that both have are fewer than two.
    """
    names, both = _paired(exact, approximate)
    both = both - baseline
    count = min(count, len(names))
    tops = [set(row.abs().topk(count).indices.tolist()) for row in both]
    strongest = both[:, sorted(tops[0])]
    apart = (both[0] - both[1]).abs().topk(min(5, len(names))).indices.tolist()
    return Agreement(
        cells=len(names),
        count=count,
        pearson=torch.corrcoef(both)[0, 1].item(),
        spearman=torch.corrcoef(torch.stack([_ranks(row) for row in both]))[0, 1].item(),
        sign=(strongest[0].sign() == strongest[1].sign()).double().mean().item(),
        overlap=len(tops[0] & tops[1]) / count,
        worst=[(names[cell], both[0, cell].item(), both[1, cell].item()) for cell in apart],
    )


def _paired(exact: Effects, approximate: Effects) -> tuple[Sequence[str], Float[Tensor, "2 cell"]]:
    """Names of the cells, and both maps flattened."""
    if isinstance(exact, Tensor) and isinstance(approximate, Tensor):
        if exact.shape != approximate.shape:
            raise ValueError(f"maps of unequal shape: {list(exact.shape)} and {list(approximate.shape)}")
        cells = torch.cartesian_prod(*(torch.arange(size) for size in exact.shape))
        names = [", ".join(map(str, cell)) for cell in cells.view(exact.numel(), -1).tolist()]
        return names, torch.stack([side.detach().flatten().double().cpu() for side in (exact, approximate)])
    if isinstance(exact, Tensor) or isinstance(approximate, Tensor):
        raise ValueError("compare two tensors or two mappings, not one of each")
    keys = [key for key in exact if key in approximate]
    if len(keys) < 2:
        raise ValueError("the two have fewer than two edges in common")
    rows = [[float(side[key]) for key in keys] for side in (exact, approximate)]
    return [_name(key) for key in keys], torch.tensor(rows, dtype=torch.double)


def _ranks(values: Float[Tensor, "cell"]) -> Float[Tensor, "cell"]:
    """Ranks from the lowest value up; equal values share their mean rank.

    Exact maps have rounding noise where nothing happens: 1e-5 of the largest effect counts as equal.
    """
    grain = 1e-5 * values.abs().max().clamp(min=1e-30)
    _, place, times = torch.unique((values / grain).round(), return_inverse=True, return_counts=True)
    last = times.cumsum(0).double()
    ranks: Tensor = (last - (times - 1) / 2)[place]
    return ranks


def _name(key: Any) -> str:
    return " -> ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _short(name: str) -> str:
    return name if len(name) <= 39 else name[:38] + "…"
