"""Views to point at, for notebooks and reports: HTML that holds everything and fetches nothing.

    attention(patterns, words)                  # in a notebook, the last line of a cell
    attention(patterns, words).save(run.folder / "attention.html")

Each view is a document of its own (in a notebook, in a sandboxed frame), works without a network, in
light and dark, by mouse and by keyboard, and says every value in text too.  ``plots`` and
``text_plots`` draw the same for paper.  CircuitsVis, which inspired these, loads its code from the web
when it is shown.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .examples import Example, Words, sampled, strongest
from .interactive_page import document, markup
from .plots import as_array
from .scan import Scan

STEPS = 65535  # attention is kept in 16 bits: to within 8e-6


@dataclass(frozen=True)
class View:
    """An interactive page: shown by a notebook as it is, or written with ``save``."""

    kind: str
    title: str
    data: Mapping[str, Any]
    height: int = 480

    def html(self) -> str:
        """The whole document."""
        return document(self.kind, self.title, self.data)

    def _repr_html_(self) -> str:
        """The document in a frame: several on a page do not clash, and its script reaches nothing else."""
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" title="{markup(self.title)}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the document, through a temporary file, and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".writing")
        temporary.write_text(self.html(), encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105
        return path


def attention(
    patterns: Any, tokens: Sequence[Any], *, scores: Mapping[str, Any] | None = None, title: str = "Attention"
) -> View:
    """Attention patterns of one prompt, [layer, head, query, key]: choose a head, point at a token.

    ``scores``: name -> [layer, head], to colour the heads by; without them, by how much of its
    attention a head gives to one key, on average.  A page takes 2.7 bytes for each number.  Raises
    ValueError for shapes that do not fit and for values outside 0 to 1.
    """
    values = as_array(patterns)
    if values.ndim != 4 or values.shape[2:] != (len(tokens), len(tokens)):
        raise ValueError(f"patterns {values.shape} and {len(tokens)} tokens: want [layer, head, query, key]")
    if not (values.min() > -1e-3 and values.max() < 1 + 1e-3):
        raise ValueError(f"attention from {values.min():.3g} to {values.max():.3g}: want 0 to 1")
    shown = scores or {"strongest key (mean)": values.max(-1).mean(-1)}
    return _heads(shown, values, tokens, title)


def head_grid(scores: Mapping[str, Any], *, title: str = "Heads") -> View:
    """Scores of all heads, name -> [layer, head], without patterns; ``attention`` takes both."""
    if not scores:
        raise ValueError("no scores to show")
    return _heads(scores, None, [], title)


def _heads(scores: Mapping[str, Any], patterns: Any, tokens: Sequence[Any], title: str) -> View:
    tables = {str(name): as_array(table) for name, table in scores.items()}
    wanted = next(iter(tables.values())).shape if patterns is None else patterns.shape[:2]
    for name, table in tables.items():
        if table.shape != wanted or table.ndim != 2:
            raise ValueError(f"score {name!r} is {table.shape}, the heads are {wanted}")
    data = {
        "scores": {name: [_numbers(row) for row in table] for name, table in tables.items()},
        "tokens": [str(token) for token in tokens],
        "patterns": None if patterns is None else _packed(patterns),
    }
    below = 0 if patterns is None else 620
    return View("heads", title, data, height=170 + 30 * wanted[0] + below)


def _packed(patterns: np.ndarray[Any, Any]) -> dict[str, Any]:
    whole = np.round(patterns.clip(0, 1) * STEPS).astype("<u2")
    packed = base64.b64encode(whole.tobytes()).decode()
    return {"heads": patterns.shape[1], "size": patterns.shape[2], "data": packed}


def token_values(
    texts: Sequence[Sequence[Any]],
    values: Mapping[str, Sequence[Any]],
    *,
    unit: str = "",
    title: str = "Values of tokens",
) -> View:
    """Coloured text: one value per token, and a choice of what to show (neurons, features, losses).

    ``values``: name -> one sequence of numbers for each of the ``texts``.  Raises ValueError where
    lengths differ.
    """
    if not values:
        raise ValueError("no values to show")
    lengths = [len(text) for text in texts]
    for name, rows in values.items():
        if [len(row) for row in rows] != lengths:
            raise ValueError(f"{name!r} has {[len(row) for row in rows]} values for {lengths} tokens")
    data = {
        "names": [str(name) for name in values],
        "unit": unit,
        "rows": [
            {
                "tokens": [str(token) for token in text],
                "values": [_numbers(as_array(rows[index])) for rows in values.values()],
            }
            for index, text in enumerate(texts)
        ],
    }
    letters = sum(len(str(token)) for text in texts for token in text)
    return View("tokens", title, data, height=min(900, 190 + 27 * (letters // 80 + len(texts))))


def examples(
    found: Scan,
    rows: Any,
    units: Sequence[tuple[str, int]],
    words: Words,
    *,
    count: int = 8,
    title: str = "Examples",
) -> View:
    """The strongest places and a sample of all places for units of a scan, with the text around them.

    ``units``: (site, number) of each; ``rows``: those that were scanned; ``words``: the text of a token
    id, as a list or a function such as ``tokenizer.decode``.
    """
    if not units:
        raise ValueError("no units to show")
    shown = [_unit(found, rows, site, unit, words, count) for site, unit in units]
    return View("examples", title, {"units": shown}, height=min(900, 280 + 27 * (count + 6)))


def _unit(found: Scan, rows: Any, site: str, unit: int, words: Words, count: int) -> dict[str, Any]:
    units = found.sites[site]
    density = units.density(found.tokens)[unit].item()
    mean = units.mean(found.tokens)[unit].item()
    groups = {
        "strongest": strongest(found, rows, site, unit, words, count),
        "a uniform sample, from highest to lowest": sampled(found, rows, site, unit, words),
    }
    return {
        "name": f"{site} {unit}",
        "about": f"active at {density:.2%} of {found.tokens:,} tokens, mean {mean:.3g}",
        "groups": [
            {"name": name, "examples": [_shown(example) for example in group]}
            for name, group in groups.items()
        ],
    }


def _shown(example: Example) -> dict[str, Any]:
    return {"value": _number(example.value), "tokens": example.tokens, "at": example.at}


def _numbers(values: Any) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """To six digits, which is more than one reads; None for what is no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
