"""Ranked full-text search over cards and glossary, with SQLite's FTS5.

The tables are made from the index and kept under XDG_CACHE_HOME/mihack by its content; where that
cannot be written they are made in memory, each time.  Only `mihack search` and `suggest` come here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mihack.catalog.index import Index
from mihack.shipped import index_path, texts_path

FORMAT = 1
# how much a hit says about a problem: id, title, tags and area, concepts with their aliases, text
PROBLEM_WEIGHTS = (10.0, 8.0, 4.0, 4.0, 1.0)
TERM_WEIGHTS = (0.0, 8.0, 1.0)
WORD = re.compile(r"\w+")
# words of a question that say nothing about its subject
EMPTY = {
    "a",
    "about",
    "an",
    "and",
    "are",
    "by",
    "do",
    "does",
    "for",
    "how",
    "in",
    "is",
    "it",
    "of",
    "on",
    "or",
}
EMPTY |= {"other", "the", "to", "what", "which", "why", "with"}


class Hit(NamedTuple):
    """A problem's id or a concept's slug; a higher score is a better match."""

    key: str
    score: float


def search(index: Index, words: str, *, kept: bool = True) -> tuple[list[Hit], list[Hit]]:
    """(problems, concepts) for ``words``, the best first; ``kept`` allows the cache.

    Cards that have all words come before those that have some.  Endings do not matter much:
    words are stemmed, so *sorting* finds *sort*.
    """
    found = WORD.findall(words.casefold())
    asked = [word for word in found if word not in EMPTY] or found
    if not asked:
        return [], []
    with contextlib.closing(opened(index, kept=kept)) as tables:
        problems = _ranked(tables, "problems", PROBLEM_WEIGHTS, asked)
        concepts = _ranked(tables, "concepts", TERM_WEIGHTS, asked)
    return problems, concepts


def _ranked(
    tables: sqlite3.Connection, table: str, weights: tuple[float, ...], asked: list[str]
) -> list[Hit]:
    """Hits with all words first, then hits with some of them; a quoted word is never an operator."""
    quoted = [f'"{word}"' for word in asked]
    score = f"bm25({table}, {', '.join(map(str, weights))})"
    hits: dict[str, float] = {}
    for joined, lift in ((" AND ".join(quoted), 1000.0), (" OR ".join(quoted), 0.0)):
        rows = tables.execute(
            f"SELECT key, {score} FROM {table} WHERE {table} MATCH ? ORDER BY 2 LIMIT 200", (joined,)
        )
        for key, rank in rows:
            hits.setdefault(key, lift - rank)
    return [Hit(key, value) for key, value in hits.items()]


def opened(index: Index, *, kept: bool) -> sqlite3.Connection:
    """The tables: from the cache, else made there, else made in memory."""
    if kept:
        with contextlib.suppress(OSError, sqlite3.Error):
            return _cached(index)
    tables = sqlite3.connect(":memory:")
    fill(tables, index)
    return tables


def _cached(index: Index) -> sqlite3.Connection:
    from mihack.catalog.layers import cache_dir

    path = cache_dir() / f"search-{fingerprint(index)}.db"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="writing-")
        os.close(handle)
        try:
            with contextlib.closing(sqlite3.connect(temporary)) as tables:
                fill(tables, index)
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108
            raise
        _forget(path)
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


def _forget(newest: Path) -> None:
    """Keep the last few tables only."""
    old = sorted(newest.parent.glob("search-*.db"), key=lambda path: path.stat().st_mtime)[:-5]
    for path in old:
        path.unlink(missing_ok=True)


def fingerprint(index: Index) -> str:
    """A hash of what the tables hold: the shipped files, and whatever is laid over them."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    digest.update(index_path().read_bytes() + texts_path().read_bytes())
    for item in index.problems.values():
        if "sections" in item:  # from a user's folder
            digest.update(repr(item).encode("utf-8", "surrogatepass"))
    if index.layered:
        digest.update(repr(index.concepts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def fill(tables: sqlite3.Connection, index: Index) -> None:
    """Write the cards and the glossary into two FTS5 tables."""
    options = "tokenize='porter unicode61'"
    tables.execute(f"CREATE VIRTUAL TABLE problems USING fts5(key, title, tags, terms, text, {options})")
    tables.execute(f"CREATE VIRTUAL TABLE concepts USING fts5(key UNINDEXED, term, text, {options})")
    tables.executemany("INSERT INTO problems VALUES (?, ?, ?, ?, ?)", _problems(index))
    tables.executemany(
        "INSERT INTO concepts VALUES (?, ?, ?)",
        ((slug, _term(item), item.get("summary", "")) for slug, item in index.concepts.items()),
    )
    tables.commit()


def _problems(index: Index) -> Iterator[tuple[str, ...]]:
    for key, item in index.problems.items():
        area = index.areas.get(item["area"], {}).get("title", item["area"])
        tags = " ".join((*item["tags"], item["subarea"], area))
        terms = " ".join(_term(index.concepts[slug]) for slug in item["concepts"] if slug in index.concepts)
        bearings = [ref["bearing"] for ref in item["works"]]
        text = " ".join(
            (item["remains"], *item["models"], *bearings, *index.whole(item)["sections"].values())
        )
        yield key, item["title"], tags, terms, text


def _term(concept: dict[str, Any]) -> str:
    return " ".join((concept["term"], *concept.get("aliases", [])))
