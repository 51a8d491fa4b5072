"""Text as a picture: tokens coloured by a value, and the strongest examples of a unit.

Letters all have one width, so a token's box says how long it is; the value stands under its token, so
that nothing depends on telling colours apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .examples import Example
from .plots import COLOURS, _ink, as_array

FONT = "DejaVu Sans Mono"  # comes with matplotlib
SIZE = 9.0  # points
LETTER = 0.602 * SIZE / 72  # inches wide
LINE = 0.36  # inches high: a token and the value under it
MARKS = {"\n": "⏎", "\t": "→", "\r": "↵"}

ONE_SIDED = LinearSegmentedColormap.from_list("blue", ["#ffffff", COLOURS[0]])
TWO_SIDED = LinearSegmentedColormap.from_list("blue-orange", [COLOURS[0], "#ffffff", COLOURS[4]])


def tokens(
    names: Sequence[Any], values: Any, title: str, *, what: str = "value", columns: int = 80
) -> Figure:
    """One value per token, as coloured text with a scale; blue to orange if any is below zero.

    ``what``: the name and unit of the value, beside the scale.  Lines break after ``columns`` letters.
    """
    numbers = as_array(values)
    if len(names) != len(numbers):
        raise ValueError(f"{len(names)} tokens and {len(numbers)} values")
    texts = [visible(name) for name in names]
    labels = [f"{value:.2g}" for value in numbers]
    places, lines = _laid_out([max(len(text), 0.62 * len(n)) for text, n in zip(texts, labels, strict=True)],
                              columns)  # fmt: skip
    fig, ax = _page(title, columns, lines)
    scale = _scale(numbers)
    for text, number, value, (x, y, width) in zip(texts, labels, numbers, places, strict=True):
        _token(ax, scale, text, value, x, y, width, under=number)
    _legend(fig, ax, scale, what)
    return fig


def examples(
    groups: dict[str, Sequence[Example]], title: str, *, what: str = "activation", columns: int = 100
) -> Figure:
    """Examples of a unit, one a line, under a heading for each group ("strongest", "sampled").

    The token in question is coloured by its activation and underlined; the activation stands before it.
    """
    rows = sum(1 + len(group) for group in groups.values())
    values = np.array([example.value for group in groups.values() for example in group])
    fig, ax = _page(title, columns, rows)
    scale = _scale(values)
    y = 0.0
    for heading, group in groups.items():
        _write(ax, heading, 0, y, weight="bold", colour="0.25")
        for example in group:
            y += 1
            _example(ax, scale, example, y, columns)
        y += 1
    _legend(fig, ax, scale, what)
    return fig


def _example(ax: Axes, scale: ScalarMappable, example: Example, y: float, columns: int) -> None:
    _write(ax, f"{example.value:8.3g}", 0, y, colour="0.25")
    texts = [visible(name) for name in example.tokens]
    room = columns - 10
    first = example.at  # as much as fits: first the token, then what stands before it
    while first > 0 and sum(map(len, texts[first - 1 : example.at + 1])) <= room - 12:
        first -= 1
    x = 10.0
    for index, text in enumerate(texts[first:], first):
        shown = text if index != example.at else text[:room]
        if x + len(shown) > columns:
            break
        here = index == example.at
        _token(ax, scale, shown, example.value if here else None, x, y, len(shown), outline=here)
        x += len(shown)


def visible(name: Any) -> str:
    """A token as it can be drawn: line ends marked, letters that the font lacks as an empty box."""
    known = _letters()
    return (
        "".join(
            MARKS.get(letter, letter if letter.isprintable() and ord(letter) in known else "□")
            for letter in str(name)
        )
        or "∅"
    )


def _letters() -> set[int]:
    if not _KNOWN:
        _KNOWN.update(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())
    return _KNOWN


_KNOWN: set[int] = set()


def _laid_out(widths: Sequence[float], columns: int) -> tuple[list[tuple[float, float, float]], int]:
    """(x, line, width) of each token, in letters, and how many lines they take."""
    places = []
    x, y = 0.0, 0
    for width in (min(width, columns) for width in widths):
        if x + width > columns:
            x, y = 0.0, y + 1
        places.append((x, float(y), width))
        x += width
    return places, y + 1


def _page(title: str, columns: int, lines: float) -> tuple[Figure, Axes]:
    """A figure whose axes measure letters across and lines down."""
    width, height = columns * LETTER, lines * LINE
    whole = (width + 1.5, height + 0.75)
    fig = plt.figure(figsize=whole)
    plt.close(fig)  # it is shown by Run.save, once
    box = (0.2 / whole[0], 0.2 / whole[1], width / whole[0], height / whole[1])
    ax = fig.add_axes(box)
    ax.set(xlim=(0, columns), ylim=(lines, 0))
    ax.axis("off")
    fig.text(0.2 / whole[0], 1 - 0.2 / whole[1], title, fontsize=11, fontweight="bold", va="top",
             parse_math=False)  # fmt: skip
    return fig, ax


def _scale(values: np.ndarray[Any, Any]) -> ScalarMappable:
    known = values[np.isfinite(values)]
    extreme = float(np.abs(known).max()) if known.size else 0.0
    two_sided = known.size > 0 and known.min() < 0
    colours: Colormap = TWO_SIDED if two_sided else ONE_SIDED
    return ScalarMappable(Normalize(-(extreme or 1.0) if two_sided else 0, extreme or 1.0), colours)


def _token(
    ax: Axes,
    scale: ScalarMappable,
    text: str,
    value: float | None,
    x: float,
    y: float,
    width: float,
    *,
    under: str = "",
    outline: bool = False,
) -> None:
    colour: Any = (
        (1, 1, 1, 1) if value is None or not np.isfinite(value) else scale.to_rgba(np.array([value]))[0]
    )
    edge = "black" if outline else "0.85"
    box = Rectangle((x, y + 0.04), width, 0.92 if under else 0.7, facecolor=colour, edgecolor=edge,
                    linewidth=1.1 if outline else 0.4, zorder=2 if outline else 1)  # fmt: skip
    ax.add_patch(box)
    _write(ax, text, x, y, colour=_ink(colour))
    if under:
        ax.text(x + width / 2, y + 0.78, under, fontsize=5.6, family=FONT, ha="center", va="center",
                color=_ink(colour), parse_math=False, zorder=3)  # fmt: skip


def _write(ax: Axes, text: str, x: float, y: float, *, colour: str, weight: str = "normal") -> None:
    ax.text(x, y + 0.36, text, fontsize=SIZE, family=FONT, va="center", color=colour, weight=weight,
            parse_math=False, zorder=3)  # fmt: skip


def _legend(fig: Figure, ax: Axes, scale: ScalarMappable, what: str) -> None:
    """The scale, to the right of the text."""
    box = ax.get_position()
    height = min(box.height, 1.6 / fig.get_figheight())
    strip = fig.add_axes((box.x1 + 0.25 / fig.get_figwidth(), box.y1 - height,
                          0.12 / fig.get_figwidth(), height))  # fmt: skip
    bar = fig.colorbar(scale, cax=strip)
    bar.set_label(what, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = plt.MaxNLocator(4)
    bar.update_ticks()
