"""Three linear probes: ridge, logistic and mass-mean, each with weights in the units of the activations.

Ridge and logistic fit standardised activations, so that one penalty suits every layer, and are turned
back.  Ridge shares one factorisation among all label sets, so that a probe's controls cost next to
nothing.  Logistic regression is scikit-learn's.  The mass-mean probe (Marks & Tegmark 2023,
arXiv:2310.06824) points from one class mean to the other; it has nothing to overfit with, and its
direction is often the better one to intervene along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kind = Literal["ridge", "logistic", "mass-mean"]


@dataclass(frozen=True)
class Probe:
    """score = weight @ activation + bias, in the units of the activations, whatever it was fitted in.

    ``weight`` [output, d]: one row per class; a binary probe has one, which points to the second class.
    ``classes`` is None for a probe of numbers.
    """

    weight: Float[Tensor, "output d"]
    bias: Float[Tensor, "output"]
    classes: Int[Tensor, "class"] | None

    def scores(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch output"]:
        """The linear scores."""
        scores: Tensor = x.to(self.weight) @ self.weight.T + self.bias
        return scores

    def predict(self, x: Float[Tensor, "*batch d"]) -> Tensor:
        """The class, or the number."""
        scores = self.scores(x)
        if self.classes is None:
            return scores.squeeze(-1) if len(self.bias) == 1 else scores
        best = (scores[..., 0] > 0).long() if len(self.bias) == 1 else scores.argmax(-1)
        return self.classes[best]

    def score(self, x: Float[Tensor, "example d"], y: Tensor, seen: Tensor) -> float:
        """Accuracy; for numbers, R squared against predicting the mean of ``seen``, the training labels."""
        if self.classes is not None:
            return (self.predict(x) == y.to(self.classes)).float().mean().item()
        y = y.to(self.weight)
        centre = seen.to(self.weight).mean(0)
        left = (y - self.predict(x)).square().sum() / (y - centre).square().sum().clamp_min(1e-30)
        return 1 - left.item()

    def on_boundary(self) -> Float[Tensor, "d"]:
        """The point of a binary probe's decision plane that is nearest to 0, for ``directions.reflect``."""
        if len(self.bias) != 1:
            raise ValueError(f"a probe with {len(self.bias)} rows has no single plane")
        point: Tensor = -self.bias[0] * self.weight[0] / self.weight[0].square().sum()
        return point


def fit_all(
    x: Float[Tensor, "example d"], labels: Sequence[Tensor], kind: Kind, penalty: float
) -> list[Probe]:
    """A probe for each set of training labels on the same activations.

    Raises ValueError for an unknown kind, for classes and numbers mixed up, or a penalty that is not above 0.
    """
    fits = ("ridge", "logistic", "mass-mean")
    if kind not in fits:
        raise ValueError(f"kind is {kind!r}: choose from {', '.join(fits)}")
    if penalty <= 0:
        raise ValueError(f"the penalty is {penalty}: it must be above 0")
    if labels[0].is_floating_point() and kind != "ridge":
        raise ValueError(f"a {kind} probe wants classes (whole numbers); ridge takes numbers")
    if not labels[0].is_floating_point() and len(torch.unique(labels[0])) < 2:
        raise ValueError("all training labels are of one class: another seed or share, or more groups")
    x = x.detach().double()
    if kind == "mass-mean":
        return [_mass_mean(x, y) for y in labels]
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-8, scale, 1.0)
    z = (x - mean) / scale
    fitted = _ridge(z, labels, penalty) if kind == "ridge" else [_logistic(z, y, penalty) for y in labels]
    return [_in_units(probe, mean, scale) for probe in fitted]


def _in_units(probe: Probe, mean: Tensor, scale: Tensor) -> Probe:
    """From standardised activations back to the model's own."""
    weight = probe.weight / scale
    return Probe(weight.float(), (probe.bias - weight @ mean).float(), probe.classes)


def _ridge(z: Tensor, labels: Sequence[Tensor], penalty: float) -> list[Probe]:
    """Least squares on plus and minus 1 for classes; the intercept is not penalised."""
    classes = [None if y.is_floating_point() else torch.unique(y) for y in labels]
    targets = [_columns(y, names) for y, names in zip(labels, classes, strict=True)]
    together = torch.cat(targets, dim=1)
    centre = together.mean(0)
    weights = solve_ridge(z, together - centre, penalty).T
    sizes = [target.shape[1] for target in targets]
    parts = zip(torch.split(weights, sizes), torch.split(centre, sizes), classes, strict=True)
    return [Probe(weight, bias, names) for weight, bias, names in parts]


def solve_ridge(
    z: Float[Tensor, "example d"], y: Float[Tensor, "example column"], penalty: float
) -> Float[Tensor, "d column"]:
    """The w with the least |zw - y|^2 + penalty |w|^2, by whichever system is the smaller."""
    examples, d = z.shape
    size = min(examples, d)
    gram = (z.T @ z if d <= examples else z @ z.T) + penalty * torch.eye(size, dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(gram)
    if d <= examples:
        return torch.cholesky_solve(z.T @ y, factor)
    return z.T @ torch.cholesky_solve(y, factor)


def _columns(y: Tensor, classes: Tensor | None) -> Float[Tensor, "example column"]:
    if classes is None:
        return y.double().reshape(len(y), -1)
    if len(classes) <= 2:
        return torch.where(y == classes[-1], 1.0, -1.0).double()[:, None] * (len(classes) - 1)
    return torch.where(y[:, None] == classes, 1.0, -1.0).double()


def _logistic(z: Tensor, y: Tensor, penalty: float) -> Probe:
    from sklearn.linear_model import LogisticRegression  # here, since importing it takes a second

    classes = torch.unique(y)
    if len(classes) == 1:  # a control whose training side happens to hold one class
        return Probe(z.new_zeros(1, z.shape[1]), z.new_zeros(1), classes)
    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(z.numpy(), y.numpy())
    return Probe(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_), classes)


def _mass_mean(x: Tensor, y: Tensor) -> Probe:
    """The nearest class mean; with two classes, their difference and the point half-way."""
    classes = torch.unique(y)
    means = torch.stack([x[y == name].mean(0) for name in classes])
    middle = means.mean(0)
    away = means - middle
    bias = -away.square().sum(1) / 2 - away @ middle
    if len(classes) <= 2:
        away, bias = away[-1:] - away[:1], bias[-1:] - bias[:1]
    return Probe(away.float(), bias.float(), classes)
