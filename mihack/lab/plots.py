"""The field's pictures, drawn so that they read in grey and to colour-blind readers.

Each function draws on one matplotlib Axes, so an experiment lays several side by side:

    fig, axes = figure(1, 2, "What the model learned")
    loss_curves(axes[0], history, ["train_loss", "test_loss"])
    attention(axes[1], pattern, tokens, "head 0.1")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette: distinct for all common kinds of colour blindness.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", "-.", ":"]


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """Tensor, list or array to a float numpy array on the CPU."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values, dtype=float)


def figure(
    rows: int, columns: int, title: str, *, size: tuple[float, float] | None = None
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """A figure of ``rows`` x ``columns`` panels, and its Axes as a flat array."""
    width, height = size or (4.6 * columns, 3.7 * rows + 0.4)
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    fig.suptitle(title, fontsize=12, fontweight="bold")
    plt.close(fig)  # it is shown by Run.save, once
    return fig, axes.ravel()


def label(ax: Axes, title: str, x: str = "", y: str = "") -> None:
    """Title and axis names of a panel."""
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)


def levels(ax: Axes, marks: Mapping[str, float]) -> None:
    """Dotted level lines with their names: chance, a baseline, a bound."""
    for text, level in marks.items():
        ax.axhline(level, color="0.45", linewidth=0.9, linestyle=":")
        ax.annotate(text, (1, level), xycoords=("axes fraction", "data"), fontsize=7.5,
                    ha="right", va="bottom", color="0.2", zorder=3,
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6})  # fmt: skip


def loss_curves(
    ax: Axes,
    history: Mapping[str, Sequence[float]],
    names: Sequence[str],
    *,
    title: str = "Training",
    y: str = "loss (nats)",
    log: bool = True,
    marks: Mapping[str, float] | None = None,
) -> None:
    """Columns of a training history against the step; ``marks`` draws level lines (chance, say)."""
    for index, name in enumerate(names):
        ax.plot(
            history["step"],
            history[name],
            color=COLOURS[index % len(COLOURS)],
            linestyle=STYLES[index % len(STYLES)],
            label=name.replace("_", " "),
        )
    levels(ax, marks or {})
    if log:
        ax.set_yscale("log")
    ax.legend(fontsize=8, frameon=False)
    label(ax, title, "step", y)


def heatmap(
    ax: Axes,
    matrix: Any,
    title: str,
    *,
    x: str = "",
    y: str = "",
    x_ticks: Sequence[str] | None = None,
    y_ticks: Sequence[str] | None = None,
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    numbers: bool = False,
    bar: bool = True,
) -> None:
    """A matrix as an image.  ``signed`` centres the colours on zero; ``numbers`` prints the cells."""
    values = as_array(matrix)
    if limits is None and signed:
        extreme = float(np.abs(values).max()) or 1.0
        limits = (-extreme, extreme)
    low, high = limits if limits is not None else (float(values.min()), float(values.max()))
    image = ax.imshow(values, cmap="RdBu_r" if signed else "cividis", vmin=low, vmax=high, aspect="auto",
                      interpolation="nearest")  # fmt: skip
    for ticks, size, setter in (
        (x_ticks, values.shape[1], ax.set_xticks),
        (y_ticks, values.shape[0], ax.set_yticks),
    ):
        if ticks is not None:
            setter(range(len(ticks)), [str(tick) for tick in ticks])
        elif size <= 12:
            setter(range(size))
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color=_ink(image.cmap(image.norm(value))))  # fmt: skip
    if bar:
        ax.figure.colorbar(image, ax=ax, shrink=0.85).ax.tick_params(labelsize=7)
    label(ax, title, x, y)


def _ink(background: Any) -> str:
    """Black or white, whichever reads better on the given RGBA colour."""
    red, green, blue = background[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def attention(ax: Axes, pattern: Any, tokens: Sequence[Any], title: str) -> None:
    """One head's attention pattern [query, key] with the tokens along both axes."""
    names = [str(token) for token in tokens]
    small = names if len(names) <= 24 else None
    heatmap(ax, pattern, title, x="key (attended to)", y="query (attending)", x_ticks=small, y_ticks=small,
            limits=(0, 1))  # fmt: skip
    if small:
        ax.tick_params(axis="x", labelrotation=90 if max(map(len, names)) > 2 else 0, labelsize=7)
        ax.tick_params(axis="y", labelsize=7)


def bars(
    ax: Axes,
    values: Mapping[str, float],
    title: str,
    *,
    y: str = "",
    highlight: Sequence[str] = (),
    marks: Mapping[str, float] | None = None,
    numbers: bool = True,
) -> None:
    """Named values as bars; ``highlight`` colours some of them, ``marks`` draws level lines."""
    names = list(values)
    colours = [COLOURS[1] if name in highlight else COLOURS[0] for name in names]
    drawn = ax.bar(range(len(names)), [values[name] for name in names], color=colours)
    turn = 30 if max(map(len, names)) * len(names) > 36 else 0
    ax.set_xticks(range(len(names)), names, rotation=turn, ha="right" if turn else "center")
    if numbers and len(names) <= 12:
        ax.bar_label(drawn, fmt="%.3g" if len(names) <= 8 else "%.2g", fontsize=7, padding=1)
    levels(ax, marks or {})
    ax.axhline(0, color="0.2", linewidth=0.6)
    ax.margins(y=0.12)
    label(ax, title, "", y)


def spectrum(ax: Axes, power: Any, title: str, *, key: Sequence[int] = (), y: str = "share of power") -> None:
    """Share of power at each frequency 1, 2, ...; the ``key`` frequencies stand out and are named."""
    values = as_array(power)
    frequencies = np.arange(1, len(values) + 1)
    ax.bar(frequencies, values, color=[COLOURS[1] if k in key else "0.6" for k in frequencies], width=0.9)
    for k in key:
        ax.annotate(str(k), (k, values[k - 1]), ha="center", va="bottom", fontsize=7.5)
    label(ax, title, "frequency k (of cos and sin 2πkx/p)", y)


def points(
    ax: Axes, x: Any, y: Any, names: Sequence[Any], title: str, *, x_name: str = "", y_name: str = ""
) -> None:
    """A scatter with a name beside each point, for embeddings and projections."""
    xs, ys = as_array(x), as_array(y)
    ax.scatter(xs, ys, s=14, color=COLOURS[0])
    for name, left, up in zip(names, xs, ys, strict=True):
        ax.annotate(str(name), (left, up), fontsize=7, xytext=(2, 2), textcoords="offset points")
    label(ax, title, x_name, y_name)


def vectors(ax: Axes, columns: Any, title: str, *, limit: float | None = None) -> None:
    """Columns of [2, n] as named arrows from the origin, on a square frame."""
    ends = as_array(columns).T
    reach = limit or 1.25 * max(1.0, float(np.abs(ends).max()))
    for index, (left, up) in enumerate(ends):
        ax.plot([0, left], [0, up], color=COLOURS[0], linewidth=1.6)
        ax.scatter([left], [up], s=16, color=COLOURS[0], zorder=3)
        if len(ends) <= 12:
            ax.annotate(str(index), (left, up), fontsize=8, xytext=(3, 3), textcoords="offset points")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    label(ax, title, "hidden unit 0", "hidden unit 1")
