"""The data of the list: what the browser filters by (catalog.js) and searches through (texts.js).

Both are plain scripts that set one variable, since a page opened from a folder may fetch nothing.
The texts are read only when somebody searches, so that the first page stays small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mihack.catalog.index import Index
from mihack.catalog.query import CODING, COMPUTE, STATUS
from mihack.terminal import one_line

EXCERPT = 320  # characters of a problem's statement that a search looks through


def catalog_js(index: Index) -> bytes:
    """``window.mihackCatalog``: every problem as a row of numbers and short texts."""
    areas, starters = list(index.areas), list(index.starters)
    rows = [_row(index.whole(item), areas, starters) for item in index.problems.values()]
    data = {
        "areas": [[slug, one_line(index.areas[slug]["title"])] for slug in areas],
        "starters": starters,
        "status": STATUS,
        "compute": COMPUTE,
        "coding": CODING,
        "problems": rows,
    }
    return script("mihackCatalog", data)


def _row(item: dict[str, Any], areas: list[str], starters: list[str]) -> list[Any]:
    """In the order that list.js reads; numbers are places in the lists above, -1 for none."""
    starter = item["starter"] or {}
    return [
        item["id"],
        one_line(item["title"]),
        item["difficulty"],
        place(item["area"], areas),
        place(item["status"], STATUS),
        item["hours"][0],
        item["hours"][1],
        place(item["compute"], COMPUTE),
        place(item["coding"], CODING),
        place(starter.get("name"), starters),
        int(starter.get("fit") == "near"),
        " ".join(item["tags"]),
        one_line(item["remains"]),
    ]


def place(value: object, values: Iterable[object]) -> int:
    """Where ``value`` stands among ``values``, or -1."""
    known = list(values)
    return known.index(value) if value in known else -1


def texts_js(index: Index) -> bytes:
    """``window.mihackTexts``: for each problem, in the same order, what else a search looks through."""
    return script("mihackTexts", [_searched(index, index.whole(item)) for item in index.problems.values()])


def _searched(index: Index, item: dict[str, Any]) -> list[str]:
    """Words that name what it is about, and the start of its statement."""
    known = [index.concepts[slug] for slug in item["concepts"] if slug in index.concepts]
    names = [name for concept in known for name in (concept["term"], *concept.get("aliases", []))]
    about = [item["subarea"], *item["models"], *names]
    statement = one_line(item["sections"].get("problem", ""))
    return [one_line(" ".join(about)), statement[:EXCERPT]]


def script(name: str, value: object) -> bytes:
    """A script that sets ``window.<name>``: JSON is JavaScript, once ``<`` cannot begin a tag."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"window.{name}={text};\n".encode("utf-8", "replace")
