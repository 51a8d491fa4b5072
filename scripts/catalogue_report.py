"""Look over the whole catalogue and write docs/catalogue.md: counts, citations, readability, repeated text.

    python scripts/catalogue_report.py

What is wrong in a single card is `mihack check`'s business; this script looks across cards.  It ends
with 1 if two cards share a statement, or a long run of words outside the names of works.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mihack.catalog.index import Index, load

ROOT = Path(__file__).resolve().parent.parent
RUN = 12  # words in a row that two cards may not share
WORD = re.compile(r"[a-z0-9']+")
URL = re.compile(r"https?://[^\s)>\]]+")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
# the same first steps need the same calls: code and headings are no copied prose
CODE = re.compile(r"`[^`]*`|^#.*$", re.MULTILINE)


def main() -> int:
    """Write the report; 1 if cards repeat each other."""
    index = load()
    items = [index.whole(item) for item in index.problems.values()]
    repeated = repeats(items)
    lines = ["# The catalogue in numbers", "", "Written by `scripts/catalogue_report.py`.", ""]
    lines += ["## Areas", "", *areas(index, items), "", "## Ratings and status", "", *facts(items)]
    lines += ["", "## Citations", "", *citations(index, items)]
    lines += ["", "## Form", "", *form(index, items)]
    lines += ["", "## Text", "", *texts(items, repeated)]
    target = ROOT / "docs" / "catalogue.md"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    for first, second, words in repeated:
        print(f"{first} and {second} share: {words}", file=sys.stderr)
    print(f"{target.relative_to(ROOT)}: {len(items)} problems, {len(repeated)} repeats")
    return 1 if repeated else 0


def areas(index: Index, items: list[dict[str, Any]]) -> list[str]:
    """Problems per area, with how many of them have an experiment."""
    lines = ["| area | problems | experiment of its own | warm-up | none |", "|---|---|---|---|---|"]
    for slug, area in index.areas.items():
        fits = Counter((item["starter"] or {"fit": "none"})["fit"] for item in items if item["area"] == slug)
        lines.append(
            f"| {area['title']} | {sum(fits.values())} | {fits['exact']} | {fits['near']} | {fits['none']} |"
        )
    return lines


def facts(items: list[dict[str, Any]]) -> list[str]:
    """How many problems there are of each basis and status."""
    lines = []
    for field in ("difficulty_basis", "status", "compute", "coding"):
        counts = Counter(item[field] for item in items)
        shown = ", ".join(f"{value} {count}" for value, count in counts.most_common())
        lines.append(f"- {field.replace('_', ' ')}: {shown}")
    return lines


def citations(index: Index, items: list[dict[str, Any]]) -> list[str]:
    """How many works are cited, and how many of them were confirmed."""
    cited = {ref["work"] for item in items for ref in item["works"]}
    sure = sum(index.works[key]["confirmed"] for key in cited)
    spare = len(index.works) - len(cited)
    return [
        f"- works cited on cards: {len(cited)}, confirmed: {sure} (title, authors and id seen together in a",
        "  public source; how is in each entry's note in `catalog/works.yaml`)",
        f"- works that only experiments refer to, or none does: {spare}",
        f"- dropped, since title, authors and address were not seen together: {dropped()}, listed in",
        "  `docs/dropped-citations.md`; cited and left unknown: "
        f"{sum(not index.works[key]['confirmed'] for key in cited)}",
    ]


def dropped() -> int:
    """Rows of the list of citations left out."""
    rows = (ROOT / "docs" / "dropped-citations.md").read_text(encoding="utf-8").splitlines()
    return sum(row.startswith("| ") for row in rows) - 1  # the header


def form(index: Index, items: list[dict[str, Any]]) -> list[str]:
    """Sections filled, links well-formed, terms and citations that lead somewhere."""
    whole = sum(all(text.strip() for text in item["sections"].values()) for item in items)
    named = [slug for item in items for slug in item["concepts"]]
    known = sum(slug in index.concepts for slug in named)
    links = [source["url"] for item in items for source in item["sources"]]
    for text in (text for item in items for text in item["sections"].values()):
        links += URL.findall(text)
    sound = sum(bool(urlsplit(link).hostname) for link in links)
    ids = {number for item in items for text in item["sections"].values() for number in ARXIV.findall(text)}
    unlisted = sorted(ids - {work["arxiv"] for work in index.works.values() if work["confirmed"]})
    return [
        f"- all five sections filled: {whole} of {len(items)}",
        f"- terms that the glossary has: {known} of {len(named)}",
        f"- well-formed links: {sound} of {len(links)}",
        f"- arXiv numbers in the texts: {len(ids)}, of which not among the confirmed works: "
        + (", ".join(unlisted) or "none"),
    ]


def texts(items: list[dict[str, Any]], repeated: list[tuple[str, str, str]]) -> list[str]:
    """Length, readability and repetition of the cards."""
    lengths = sorted(len(WORD.findall(prose(item).lower())) for item in items)
    sentences = sorted(words_per_sentence(item) for item in items)
    middle = len(items) // 2
    return [
        f"- words in a card: {lengths[0]} to {lengths[-1]}, median {lengths[middle]}",
        f"- words in a sentence, card's mean: {sentences[0]:.0f} to {sentences[-1]:.0f}, "
        f"median {sentences[middle]:.0f}",
        f"- pairs of cards that share {RUN} words in a row: {len(repeated)}",
    ]


def prose(item: dict[str, Any]) -> str:
    """The card's text without code, headings and the list of prior work."""
    parts = [text for key, text in item["sections"].items() if key != "prior_work"]
    return CODE.sub(" ", "\n".join(parts))


def words_per_sentence(item: dict[str, Any]) -> float:
    """Mean number of words between full stops, question marks, colons and semicolons."""
    text = prose(item)
    ends = len(re.findall(r"[.?!:;](?:\s|$)", text)) or 1
    return len(WORD.findall(text.lower())) / ends


def repeats(items: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Pairs of cards with a run of the same words, each with the first such run."""
    where: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item in items:
        words = WORD.findall(prose(item).lower())
        for run in {tuple(words[n : n + RUN]) for n in range(len(words) - RUN + 1)}:
            where[run].append(item["id"])
    found: dict[tuple[str, str], str] = {}
    for run, ids in where.items():
        for first, second in itertools.pairwise(ids):
            found.setdefault((first, second), " ".join(run))
    return [(first, second, words) for (first, second), words in found.items()]


if __name__ == "__main__":
    sys.exit(main())
