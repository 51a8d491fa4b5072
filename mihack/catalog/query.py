"""Filtering problems: what `mihack list` and a search do, on plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mihack.catalog.index import Index, fold, unknown
from mihack.errors import MihackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Test = Callable[[dict[str, Any]], bool]

# From the least to the most; a filter asks for "no more than this".
COMPUTE = ("laptop", "free-gpu", "gpu", "cluster")
CODING = ("low", "some", "high")
STATUS = ("open", "partly answered", "largely answered", "unknown")
# Where a word is found says how much the problem is about it.
WEIGHTS = (8, 4, 3, 1)


def query(
    index: Index,
    *,
    text: str | None = None,
    difficulty: str | None = None,
    area: str | None = None,
    status: str | None = None,
    compute: str | None = None,
    coding: str | None = None,
    hours: float | None = None,
    starter: str | None = None,
    tags: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """The problems that meet every filter, in natural order; with ``text``, best match first.

    ``difficulty``: a letter or range; a problem counts if its range shares a letter with it.
    ``area``, ``status``: a name or the start of one (``toy``, ``partly``).
    ``compute``, ``coding``: no more than this.  ``hours``: the upper estimate is at most this.
    ``starter``: ``algorithmic``, or with its experiment ``algorithmic/sort``.  ``tags``: all.
    """
    tests: list[Test] = []
    if difficulty:
        tests.append(_difficulty(difficulty))
    if area:
        tests.append(_area(index, area))
    if status:
        tests.append(_status(status))
    if compute:
        tests.append(_at_most("compute", compute, COMPUTE))
    if coding:
        tests.append(_at_most("coding", coding, CODING))
    if hours is not None:
        tests.append(lambda item: bool(item["hours"][1] <= hours))
    if starter:
        tests.append(_starter(index, starter))
    tests += [_tag(index, tag) for tag in tags]
    found = [item for item in index.problems.values() if all(test(item) for test in tests)]
    return _search(index, found, text) if text and text.strip() else found


def letters(difficulty: str) -> str:
    """The letters of a difficulty: ``B-D`` covers ``BCD``.

    >>> letters("B"), letters("B-D")
    ('B', 'BCD')
    """
    return "".join(chr(n) for n in range(ord(difficulty[0]), ord(difficulty[-1]) + 1))


def _difficulty(wanted: str) -> Test:
    text = wanted.strip().upper()
    shape = [part in {"A", "B", "C", "D"} for part in text.split("-")]
    if not all(shape) or len(shape) > 2 or text[0] > text[-1]:
        hint = "Give a letter, A (easiest) to D, or a range such as B-C."
        raise MihackError(f"No difficulty {wanted!r}.", hint=hint)
    span = set(letters(text))
    return lambda item: bool(span & set(letters(item["difficulty"])))


def _area(index: Index, wanted: str) -> Test:
    text = fold(wanted)
    slugs = {
        slug
        for slug, area in index.areas.items()
        if text and (fold(slug).startswith(text) or fold(area["title"]).startswith(text))
    }
    if not slugs:
        raise unknown("area", wanted, index.areas)
    return lambda item: item["area"] in slugs


def _status(wanted: str) -> Test:
    text = fold(wanted)
    known = {status for status in STATUS if text and status.startswith(text)}
    if not known:
        raise unknown("status", wanted, STATUS)
    return lambda item: item["status"] in known


def _at_most(field: str, wanted: str, scale: tuple[str, ...]) -> Test:
    word = wanted.strip().lower()
    if word not in scale:
        raise unknown(field, wanted, scale)
    allowed = set(scale[: scale.index(word) + 1])
    return lambda item: item[field] in allowed


def _starter(index: Index, wanted: str) -> Test:
    name, _, experiment = wanted.strip().partition("/")
    if name not in index.starters:
        raise unknown("starter", wanted, index.starters)
    manifest = index.starters[name]
    if experiment and experiment not in manifest["experiments"]:
        raise unknown("experiment", wanted, [f"{name}/{e}" for e in manifest["experiments"]])
    return lambda item: (
        item["starter"] is not None
        and item["starter"]["name"] == name
        and (not experiment or item["starter"]["parameters"].get(manifest["selector"]) == experiment)
    )


def _tag(index: Index, wanted: str) -> Test:
    tag = wanted.strip().lower()
    known = {tag for item in index.problems.values() for tag in item["tags"]}
    if tag not in known:
        raise unknown("tag", wanted, known)
    return lambda item: tag in item["tags"]


def _search(index: Index, items: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    words = fold(text).split()
    scored = []
    for item in items:
        places = _places(index, item)
        points = [_points(word, places) for word in words]
        if all(points):
            scored.append((-sum(points), item))
    # sort is stable, so that equals keep their natural order
    return [item for _, item in sorted(scored, key=lambda pair: pair[0])]


def _points(word: str, places: tuple[str, ...]) -> int:
    return sum(weight for weight, place in zip(WEIGHTS, places, strict=True) if word in place)


def _places(index: Index, listed: dict[str, Any]) -> tuple[str, ...]:
    """The problem's text from the most telling to the least: title, tags, concepts, the rest."""
    item = index.whole(listed)
    concepts = [index.concepts.get(slug, {}).get("term", slug) for slug in item["concepts"]]
    bearings = [ref["bearing"] for ref in item["works"]]
    rest = [item["remains"], *item["models"], *bearings, *item["sections"].values()]
    title = (item["id"], item["title"])
    tags = (*item["tags"], item["subarea"], item["area"])
    return tuple(fold(" ".join(part)) for part in (title, tags, concepts, rest))
