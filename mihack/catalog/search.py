"""Ranked full-text search over cards and glossary, with SQLite's FTS5.

The tables are made from the index and kept under XDG_CACHE_HOME/mihack by its content; where that
cannot be written they are made in memory, each time.  Only `mihack search` and `suggest` come here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mihack.catalog.index import Index

FORMAT = 2
# how much a hit says about a problem: id, title, tags and area, concepts with their aliases, text
PROBLEM_WEIGHTS = (10.0, 8.0, 4.0, 4.0, 1.0)
# slug, term, other names, definition
TERM_WEIGHTS = (0.0, 8.0, 8.0, 1.0)
MOST = 200
# as much as a rare word in the text
TITLE_LIFT = 3.0
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
    """A problem's id or a concept's slug, its title or term; a higher score is a better match."""

    key: str
    title: str
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
    # the texts stand in other pages than the index: fetch them for the best only
    best = f"SELECT rowid AS r, {score} AS s FROM {table} WHERE {table} MATCH ? ORDER BY s LIMIT {MOST}"
    hits: dict[str, Hit] = {}
    for joined, lift in ((" AND ".join(quoted), 1000.0), (" OR ".join(quoted), 0.0)):
        if len(hits) < MOST:
            rows = f"SELECT key, title, s FROM ({best}) JOIN {table} ON {table}.rowid = r ORDER BY s"
            for key, title, rank in tables.execute(rows, (joined,)):
                told = TITLE_LIFT * covered(title, asked)
                hits.setdefault(key, Hit(key, title, lift + told - rank))
    return sorted(hits.values(), key=lambda hit: -hit.score)


def covered(title: str, asked: list[str]) -> float:
    """Share of the words asked for that begin like a word of the title, 0 to 1.

    BM25 counts common words little, wherever they stand; a title that has all of them is meant.

    >>> covered("Do three-layer models sort?", ["three", "layers", "sorting", "induction"])
    0.75
    """
    words = WORD.findall(title.casefold())
    return sum(any(word.startswith(one[: max(3, len(one) - 3)]) for word in words) for one in asked) / len(
        asked
    )


def opened(index: Index, *, kept: bool) -> sqlite3.Connection:
    """The tables: from the cache, else made there, else made in memory."""
    if kept:
        with contextlib.suppress(OSError, sqlite3.Error):
            return _cached(index)
    tables = sqlite3.connect(":memory:")
    fill(tables, index)
    return tables


def _cached(index: Index) -> sqlite3.Connection:
    import tempfile

    from mihack.catalog.layers import cache_dir, key_of

    path = cache_dir() / f"search-{FORMAT}-{key_of(index)}.db"
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


def fill(tables: sqlite3.Connection, index: Index) -> None:
    """Write the cards and the glossary into two FTS5 tables."""
    options = "tokenize='porter unicode61'"
    tables.execute(f"CREATE VIRTUAL TABLE problems USING fts5(key, title, tags, terms, text, {options})")
    tables.execute(
        f"CREATE VIRTUAL TABLE concepts USING fts5(key UNINDEXED, title, aliases, text, {options})"
    )
    tables.executemany("INSERT INTO problems VALUES (?, ?, ?, ?, ?)", _problems(index))
    tables.executemany(
        "INSERT INTO concepts VALUES (?, ?, ?, ?)",
        (
            (slug, item["term"], " ".join(item.get("aliases", [])), item.get("summary", ""))
            for slug, item in index.concepts.items()
        ),
    )
    tables.commit()


def _problems(index: Index) -> Iterator[tuple[str, ...]]:
    for key, listed in index.problems.items():
        item = index.whole(listed)
        area = index.areas.get(item["area"], {}).get("title", item["area"])
        tags = " ".join((*item["tags"], item["subarea"], area))
        terms = " ".join(_term(index.concepts[slug]) for slug in item["concepts"] if slug in index.concepts)
        bearings = [ref["bearing"] for ref in item["works"]]
        text = " ".join((item["remains"], *item["models"], *bearings, *item["sections"].values()))
        yield key, item["title"], tags, terms, text


def _term(concept: dict[str, Any]) -> str:
    return " ".join((concept["term"], *concept.get("aliases", [])))
