"""Linear probes that bring their controls along.

A probe's score alone says little: with enough dimensions it fits anything.  Each report therefore has
the held-out score beside the train score, the majority class, and the same probe on labels that mean
nothing (Hewitt & Liang 2019, arXiv:1909.03368), whose distance from the real one is the selectivity.

For probes on k chosen neurons use ``transformer_lens.tools.analysis.fit_sparse_probe``, which is binary;
here are dense ones, several classes or numbers, many sites at once, and directions to intervene with
(``directions``).  ``probe_fits`` has the fits themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .probe_fits import Kind, Probe, fit_all

Split = tuple[Int[Tensor, "train"], Int[Tensor, "held_out"]]


@dataclass(frozen=True)
class Report:
    """A probe and what its score must be held against; accuracies, or R squared for numbers.

    ``majority``: held-out accuracy of always saying the commonest training class (0 for numbers).
    ``control`` [repeat]: held-out scores of probes trained on labels without meaning, and tested on
    them; ``control_train``: their train scores.  ``untrained``: held-out score on an untrained model.
    """

    probe: Probe
    kind: Kind
    train: float
    held_out: float
    majority: float
    control: Float[Tensor, "repeat"]
    control_train: Float[Tensor, "repeat"]
    sizes: tuple[int, int]
    untrained: float | None = None

    @property
    def selectivity(self) -> float:
        """Held-out score minus the mean of the controls'."""
        return self.held_out - self.control.mean().item()

    @property
    def spread(self) -> float:
        """Standard deviation of the controls' held-out scores."""
        return self.control.std().item() if len(self.control) > 1 else 0.0

    @property
    def faults(self) -> list[str]:
        """What speaks against reading this as "the model represents it"; empty if nothing does."""
        found = []
        if self.selectivity <= 3 * self.spread or self.held_out <= self.majority:
            found.append("held out, no better than labels without meaning or the majority class")
        if self.train - self.held_out > 0.15:
            found.append("overfits: much better on its training examples than on held-out ones")
        if self.control_train.numel() and self.control_train.mean() - self.control.mean() > 0.3:
            found.append("could fit labels without meaning: too many dimensions for so few examples")
        if self.untrained is not None and self.held_out - self.untrained <= max(3 * self.spread, 0.02):
            found.append("an untrained model's activations do as well")
        return found

    def __str__(self) -> str:
        """One line of figures, and one for each fault."""
        parts = [
            f"{self.kind} probe: held out {self.held_out:.3f} ({self.sizes[1]} examples)",
            f"train {self.train:.3f} ({self.sizes[0]})",
            f"majority {self.majority:.3f}",
            f"control {self.control.mean().item():.3f} +- {self.spread:.3f}",
            f"selectivity {self.selectivity:.3f}",
        ]
        if self.untrained is not None:
            parts.append(f"untrained model {self.untrained:.3f}")
        return "\n  ".join([", ".join(parts), *self.faults])


def grouped_split(groups: Int[Tensor, "example"], share: float = 0.25, seed: int = 0) -> Split:
    """(train, held out) example indices, where no group (prompt, game) is on both sides.

    The held-out side is as near to this share of the examples as a random order of whole groups
    allows.  Raises ValueError with fewer than two groups.
    """
    names, member = torch.unique(groups.cpu(), return_inverse=True)
    if len(names) < 2 or not 0 < share < 1:
        raise ValueError(
            f"{len(names)} group(s), share {share}: a split needs two groups and a share in (0, 1)"
        )
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    sizes = torch.bincount(member)[order].cumsum(0)[:-1]  # examples in the first 1, 2, ... groups
    count = int((sizes - share * len(groups)).abs().argmin()) + 1
    held_out = torch.isin(member, order[:count])
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def fit_probe(
    x: Float[Tensor, "example d"],
    y: Tensor,
    *,
    kind: Kind = "logistic",
    groups: Int[Tensor, "example"] | None = None,
    types: Int[Tensor, "example"] | None = None,
    untrained: Float[Tensor, "example d"] | None = None,
    penalty: float = 1.0,
    share: float = 0.25,
    repeats: int = 10,
    seed: int = 0,
) -> Report:
    """Fit one probe with all its controls.

    ``y``: whole numbers are classes, floats are values (ridge only; [example] or [example, output]).
    ``groups``: examples that belong together, such as the positions of a prompt.  ``types``: what each
    example is an instance of, such as its token; then the control is Hewitt & Liang's, a random label for
    each type, and otherwise the labels shuffled (whole groups of them, where each group has one).
    ``penalty``: weight of the squared norm, for standardised activations.  ``untrained``: the same
    examples' activations in a model that was not trained.  Raises ValueError if shapes differ or the
    training side has one class only.
    """
    options: dict[str, Any] = {
        "kind": kind,
        "groups": groups,
        "types": types,
        "penalty": penalty,
        "share": share,
    }
    other = None if untrained is None else {0: untrained}
    return probe_map({0: x}, y, untrained=other, repeats=repeats, seed=seed, **options)[0]


def probe_map(
    activations: Mapping[Any, Tensor] | Float[Tensor, "*site example d"],
    y: Tensor,
    *,
    kind: Kind = "logistic",
    groups: Int[Tensor, "example"] | None = None,
    types: Int[Tensor, "example"] | None = None,
    untrained: Mapping[Any, Tensor] | Tensor | None = None,
    penalty: float = 1.0,
    share: float = 0.25,
    repeats: int = 10,
    seed: int = 0,
) -> dict[Any, Report]:
    """A probe for each site: layers, positions, or the entries of a mapping; arguments as ``fit_probe``.

    A stacked tensor gives indices as keys (one number, or a tuple with several site axes).  All sites share
    split and controls.  The best of many sites is biased upwards: confirm it on other examples.
    """
    sites, others = _sites(activations), _sites(untrained) if untrained is not None else {}
    for key, x in [*sites.items(), *others.items()]:
        if x.dim() != 2 or len(x) != len(y):
            raise ValueError(f"site {key}: {list(x.shape)} for {len(y)} labels; wanted [example, d]")
    split = grouped_split(torch.arange(len(y)) if groups is None else groups, share, seed)
    labels = [y.cpu(), *_control_labels(y.cpu(), groups, types, repeats, seed)]
    reports = {}
    for key, x in sites.items():
        report = _report(x.cpu(), labels, split, kind, penalty)
        if key in others:
            other = _report(others[key].cpu(), labels[:1], split, kind, penalty)
            report = replace(report, untrained=other.held_out)
        reports[key] = report
    return reports


def _sites(activations: Mapping[Any, Tensor] | Tensor) -> dict[Any, Tensor]:
    if isinstance(activations, Mapping):
        return dict(activations)
    places = torch.cartesian_prod(*(torch.arange(size) for size in activations.shape[:-2]))
    keys = [tuple(place) if isinstance(place, list) else place for place in places.tolist()]
    return {key: activations[key] for key in keys}


def _control_labels(
    y: Tensor, groups: Tensor | None, types: Tensor | None, repeats: int, seed: int
) -> list[Tensor]:
    """Labels without meaning that are distributed as the real ones."""
    generator = torch.Generator().manual_seed(seed + 1)
    if types is not None:
        names, member = torch.unique(types.cpu(), return_inverse=True)
        draws = (torch.randint(len(y), (len(names),), generator=generator) for _ in range(repeats))
        return [y[draw][member] for draw in draws]
    if groups is not None:
        names, member = torch.unique(groups.cpu(), return_inverse=True)
        first = torch.full((len(names),), len(y)).scatter_reduce(0, member, torch.arange(len(y)), "amin")
        if (y[first][member] == y).all():
            return [y[first][torch.randperm(len(names), generator=generator)][member] for _ in range(repeats)]
    return [y[torch.randperm(len(y), generator=generator)] for _ in range(repeats)]


def _report(x: Tensor, labels: Sequence[Tensor], split: Split, kind: Kind, penalty: float) -> Report:
    """Fit and score the real labels, which come first, and the controls."""
    known = [y[split[0]] for y in labels]
    probes = fit_all(x[split[0]], known, kind, penalty)
    rows = []
    for probe, y, seen in zip(probes, labels, known, strict=True):
        rows.append([probe.score(x[side], y[side], seen) for side in split])
    scores = torch.tensor(rows)
    majority = 0.0
    if probes[0].classes is not None:
        majority = (labels[0][split[1]] == known[0].mode().values).float().mean().item()
    sizes = (len(split[0]), len(split[1]))
    train, held_out = rows[0]
    return Report(probes[0], kind, train, held_out, majority, scores[1:, 1], scores[1:, 0], sizes)
