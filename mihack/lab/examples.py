"""Examples of what a unit responds to, with the text around them, from a scan.

    found = scan(model, rows, neurons(model))
    strongest(found, rows, "blocks.0.mlp.hook_post", 7, words)

``text_plots.examples`` draws them, ``interactive.examples`` lets one leaf through many units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .scan import Scan

# what a token id says: a list of all words, or a function such as ``tokenizer.decode``
Words = Sequence[str] | Callable[[int], str]


@dataclass(frozen=True)
class Example:
    """One place in the text: the activation there, the tokens around it, and which of them it is."""

    value: float
    tokens: list[str]
    at: int


def word(words: Words, token: int) -> str:
    """The text of a token id; the id itself where a list of words ends before it."""
    if callable(words):
        return str(words(token))
    return str(words[token]) if token < len(words) else f"[{token}]"


def strongest(
    found: Scan,
    rows: Any,
    site: str,
    unit: int,
    words: Words,
    count: int = 8,
    *,
    before: int = 12,
    after: int = 4,
) -> list[Example]:
    """The places where a unit is strongest, falling.  ``rows``: those that were scanned."""
    units = found.sites[site]
    values, places = units.top[:count, unit].tolist(), units.place[:count, unit].tolist()
    pairs = [(value, place) for value, place in zip(values, places, strict=True) if place >= 0]
    return [_example(found, rows, place, value, words, before, after) for value, place in pairs]


def sampled(
    found: Scan,
    rows: Any,
    site: str,
    unit: int,
    words: Words,
    levels: Sequence[float] = (1, 0.95, 0.75, 0.5, 0.25, 0),
    *,
    before: int = 12,
    after: int = 4,
) -> list[Example]:
    """Places at these levels of a uniform sample (1 highest): what the strongest ones alone hide."""
    pairs = found.sites[site].quantiles(unit, levels)
    return [_example(found, rows, place, value, words, before, after) for value, place in pairs]


def _example(
    found: Scan, rows: Any, place: int, value: float, words: Words, before: int, after: int
) -> Example:
    tokens, at = found.context(rows, place, before, after)
    return Example(value, [word(words, token) for token in tokens.tolist()], at)
