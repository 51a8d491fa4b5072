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
    phases: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Columns of a training history against the step; ``marks`` draws level lines (chance, say).

    ``phases``: name -> (from, to) in steps; every other one is shaded, and all are named at the top.
    """
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
    _phases(ax, phases or {})
    ax.legend(fontsize=8, frameon=False)
    label(ax, title, "step", y)


def _phases(ax: Axes, phases: Mapping[str, tuple[float, float]]) -> None:
    for index, (name, (start, end)) in enumerate(phases.items()):
        if index % 2 == 0:
            ax.axvspan(start, end, color="0.5", alpha=0.18, linewidth=0, zorder=0)
        ax.annotate(name, ((start + end) / 2, 0.985), xycoords=("data", "axes fraction"), fontsize=7.5,
                    ha="center", va="top", color="0.2", rotation=90 if len(phases) > 3 else 0, zorder=3,
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6})  # fmt: skip


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
            setter(range(len(ticks)), [str(tick) for tick in ticks], parse_math=False)  # "$" is a token too
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
        ax.annotate(str(name), (left, up), fontsize=7, xytext=(2, 2), textcoords="offset points",
                    parse_math=False)  # fmt: skip
    label(ax, title, x_name, y_name)


def head_scores(ax: Axes, scores: Any, title: str, *, signed: bool = False, numbers: bool = False) -> None:
    """A score of every head, [layer, head], as a grid of heads."""
    heatmap(ax, scores, title, x="head", y="layer", signed=signed, numbers=numbers)


def pattern_grid(patterns: Any, title: str) -> Figure:
    """The attention patterns of all heads of a model, [layer, head, query, key], as small multiples."""
    values = as_array(patterns)
    layers, heads = values.shape[:2]
    fig, axes = figure(layers, heads, title, size=(1.1 * heads + 1.2, 1.1 * layers + 1.0))
    for (layer, head), ax in zip(np.ndindex(layers, heads), axes, strict=True):
        image = ax.imshow(values[layer, head], cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        if layer == 0:
            ax.set_title(f"head {head}", fontsize=8)
        if head == 0:
            ax.set_ylabel(f"layer {layer}", fontsize=8)
    fig.supxlabel("key (attended to)", fontsize=9)
    fig.supylabel("query (attending)", fontsize=9)
    fig.colorbar(image, ax=axes.tolist(), shrink=0.6, label="attention").ax.tick_params(labelsize=7)
    return fig


def arrows(ax: Axes, features: Any, title: str, *, names: Sequence[Any] | None = None) -> None:
    """Features as arrows in the plane, [feature, 2], with the unit circle for scale."""
    values = as_array(features)
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="0.75", linewidth=0.8)
    for index, (x, y) in enumerate(values):
        colour = COLOURS[index % len(COLOURS)]
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
        name = str(index if names is None else names[index])
        ax.annotate(name, (1.12 * x, 1.12 * y), ha="center", va="center", fontsize=8, parse_math=False)
    reach = 1.25 * max(1.0, float(np.abs(values).max()))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    label(ax, title, "dimension 1", "dimension 2")


def cosines(ax: Axes, vectors: Any, title: str, *, names: Sequence[Any] | None = None) -> None:
    """Cosine of every pair of vectors, [vector, dimension]; a zero vector has cosine 0 with all."""
    values = as_array(vectors)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(lengths == 0, 1, lengths)
    ticks = None if names is None else [str(name) for name in names]
    heatmap(ax, unit @ unit.T, title, x="feature", y="feature", x_ticks=ticks, y_ticks=ticks, signed=True,
            limits=(-1, 1), numbers=len(values) <= 10)  # fmt: skip
    ax.set_aspect("equal")
