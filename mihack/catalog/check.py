"""Every fault of a catalogue folder at once; a broken file never hides what the others have.

Run it as ``python -m mihack.catalog.check [DIR]``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mihack.catalog import card as cards
from mihack.catalog.card import CARD_BYTES, LIST_BYTES, Card
from mihack.catalog.faults import Fault, validate
from mihack.catalog.faults import path as where
from mihack.catalog.fields import SLUG, Slug, bad_characters
from mihack.catalog.files import LISTS, Entry, Found, catalog_files, read_bytes, read_yaml
from mihack.catalog.index import Index, load_shipped
from mihack.catalog.references import WHERE, reference_faults, starter_faults
from mihack.catalog.schema import Area, Concept, Overlay, Problem, Resource, Work
from mihack.catalog.starters import read_starters
from mihack.catalog.yamllines import Node
from mihack.shipped import catalog_dir, templates_dir

MODELS: dict[str, Any] = {
    "problems": Problem,
    "areas": Area,
    "concepts": Concept,
    "resources": Resource,
    "works": Work,
    "overlay": Overlay,
}
# what `mihack card new` leaves for its writer; a card that still says it is not finished
TO_DO = "TODO"
# called with (files read, files in all), to show progress
Progress = Callable[[int, int], None]
TITLE_LENGTH = 90


@dataclass
class Catalog:
    """A folder's entries by kind and key, the starters that it may use, and its faults."""

    folder: Path
    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {k: {} for k in MODELS})
    starters: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    twins: dict[tuple[str, str], Entry] = field(default_factory=dict)


def check_folder(folder: Path, below: Index | None = None, progress: Progress | None = None) -> Catalog:
    """Check the shipped catalogue, or one that is laid over it (or over ``below``)."""
    if folder.resolve() == catalog_dir().resolve():
        return check_shipped(progress)
    return check_layer(folder, (below or load_shipped()).entries(), progress)


def check_shipped(progress: Progress | None = None) -> Catalog:
    """The shipped catalogue with its starters, and the style rules that hold for it alone."""
    catalog = Catalog(catalog_dir())
    catalog.starters, described, catalog.faults = read_starters(templates_dir())
    _read(catalog, progress)
    _check(catalog, {}, described)
    for entry in catalog.entries["problems"].values():
        catalog.faults += _style_faults(entry)
    for entry in catalog.entries["overlay"].values():
        message = "belongs to a catalogue that is laid over this one; change the cards themselves"
        catalog.faults.append(Fault(entry.file, 1, "file", message))
    catalog.faults.sort()
    return catalog


def check_layer(folder: Path, base: Mapping[str, Any], progress: Progress | None = None) -> Catalog:
    """A user's folder, whose cards may name whatever ``base`` (the catalogue below it) has."""
    catalog = Catalog(folder, starters=base["starters"])
    _read(catalog, progress)
    _check(catalog, base, [])
    catalog.faults.sort()
    return catalog


def _read(catalog: Catalog, progress: Progress | None) -> None:
    files = catalog_files(catalog.folder, catalog.faults)
    for number, found in enumerate(files, 1):
        if progress is not None:
            progress(number, len(files))
        path = catalog.folder.joinpath(*found.parts)
        is_list = found.kind in LISTS.values()
        data = read_bytes(path, str(path), LIST_BYTES if is_list else CARD_BYTES, catalog.faults)
        if data is None:
            continue
        for entry in _listed(found, data, path, catalog) if is_list else _card(found, data, path):
            if entry.card is not None:
                catalog.faults += entry.card.faults
            if entry.key:
                _place(catalog, entry)
            else:
                catalog.unread |= _possible_ids(Path(entry.file).stem)


def _possible_ids(stem: str) -> set[str]:
    """The ids that an unreadable card may have, so that those who name it are not at fault."""
    parts = stem.split("-")
    return {"-".join(parts[:n]) for n in range(1, len(parts))}


def _place(catalog: Catalog, entry: Entry) -> None:
    # File systems and readers take NP001 and np001 for the same; so do we.
    kind = catalog.entries[entry.kind]
    twin = catalog.twins.setdefault((entry.kind, entry.key.lower()), entry)
    if twin is entry:
        kind[entry.key] = entry
        return
    line, first = entry.node.at(("id",)).line, f"{twin.file}:{twin.node.at(('id',)).line}"
    message = f"{entry.key!r} is taken by {first}; every id is used once"
    catalog.faults.append(Fault(entry.file, line, "id", message))
    # Keep it under a key that nothing can name, so that its other faults are found too.
    kind[f"{entry.key}\0{entry.file}"] = entry


def _listed(found: Found, data: bytes, path: Path, catalog: Catalog) -> Iterator[Entry]:
    node = read_yaml(data, str(path), catalog.faults)
    if node is not None and found.kind == "overlay":
        yield Entry(found.kind, found.kind, str(path), node)
        return
    for key, value in (node.members or {}).items() if node else ():
        catalog.faults += _key_faults(key, str(path), value.line)
        yield Entry(found.kind, key, str(path), value)


def _card(found: Found, data: bytes, path: Path) -> Iterator[Entry]:
    card = cards.parse(data, str(path))
    key: Any
    stem = found.parts[-1].removesuffix(".md")
    if card.front is None:
        # An unreadable area or concept still exists: those that name it are not at fault.
        node = Node(1, members={})
        key = "" if found.kind == "problems" else stem
        yield Entry(found.kind, key, str(path), node, card=card)
        return
    key = stem
    if found.kind == "problems":
        key = card.front.at(("id",)).value
        card.faults += _place_faults(found, card, key, stem)
        cards.require_headings(card, tuple(cards.PROBLEM_HEADINGS.values()))
    else:
        card.faults += _key_faults(stem, str(path), 1)
        if found.kind == "areas":
            cards.require_headings(card, cards.AREA_HEADINGS, extra_allowed=True)
    usable = isinstance(key, str) and not bad_characters(key)
    yield Entry(found.kind, key if usable else f"\0{path}", str(path), card.front, card=card)


def _key_faults(key: str, file: str, line: int) -> Iterator[Fault]:
    _, faults = validate(Node(line, key, key), Slug, file)
    for fault in faults:
        yield Fault(file, line, "name", fault.message)


def _place_faults(found: Found, card: Card, key: Any, stem: str) -> Iterator[Fault]:
    """The file's own name says the same as its front matter, so that people find it."""
    area = card.front.at(("area",)) if card.front else None
    if area is not None and isinstance(area.value, str) and area.value != found.parts[1]:
        message = f"is {area.value!r}, but the card stands in problems/{found.parts[1]}/"
        yield Fault(card.file, area.line, "area", message)
    slug = stem[len(key) + 1 :] if isinstance(key, str) and stem.startswith(f"{key}-") else ""
    if isinstance(key, str) and not re.fullmatch(SLUG, slug):
        message = f"is not named {key}-<slug>.md, with a slug of small letters, digits and hyphens"
        yield Fault(card.file, 1, "file", message)


def _check(catalog: Catalog, base: Mapping[str, Any], described: list[Entry]) -> None:
    names = {kind: set(catalog.entries[kind]) | set(base.get(kind, {})) for kind in WHERE}
    names["problems"] = {name for name in names["problems"] if "\0" not in name} | catalog.unread
    for entry in [*_entries(catalog), *described]:
        if entry.kind in MODELS and (entry.card is None or entry.card.front is not None):
            prefix = (entry.key,) if entry.kind in {"resources", "works"} else ()
            entry.model, faults = validate(entry.node, MODELS[entry.kind], entry.file, prefix)
            catalog.faults += faults
        catalog.faults += reference_faults(entry, names)
        if entry.kind == "problems":
            catalog.faults += starter_faults(entry, catalog.starters)
    said = {(fault.file, fault.line) for fault in catalog.faults}  # once a line is enough
    for entry in _entries(catalog):
        catalog.faults += (fault for fault in _unwritten(entry) if (fault.file, fault.line) not in said)
    catalog.faults += _ambiguous_terms(catalog)
    catalog.faults += _case_twins(catalog, base)


def _entries(catalog: Catalog) -> Iterator[Entry]:
    for kind in catalog.entries.values():
        yield from kind.values()


def _case_twins(catalog: Catalog, base: Mapping[str, Any]) -> Iterator[Fault]:
    """An id that replaces nothing shipped but looks like it: np001 beside NP001."""
    lower = {key.lower(): key for key in base.get("problems", {})}
    for key, entry in catalog.entries["problems"].items():
        if (twin := lower.get(key.lower(), key)) != key:
            message = f"{key!r} differs from {twin!r} only in case; use {twin!r} to replace it"
            yield Fault(entry.file, entry.node.at(("id",)).line, "id", message)


def _ambiguous_terms(catalog: Catalog) -> Iterator[Fault]:
    """A term or alias that would make ``mihack explain`` guess between two concepts."""
    taken: dict[str, Entry] = {}
    for entry in catalog.entries["concepts"].values():
        if entry.model is None:
            continue
        spoken: list[tuple[tuple[str | int, ...], str]] = [(("term",), entry.model.term)]
        spoken += [(("aliases", n), alias) for n, alias in enumerate(entry.model.aliases)]
        for loc, term in spoken:
            owner = taken.setdefault(term.casefold(), entry)
            if owner is not entry:
                line = entry.node.at(loc).line
                message = f"{term!r} already means {owner.key} ({owner.file}); keep it in one card"
                yield Fault(entry.file, line, str(loc[0]), message)


def _unwritten(entry: Entry) -> Iterator[Fault]:
    """Whatever still says TODO: a card that `mihack card new` wrote and nobody finished."""
    message = f"still says {TO_DO}; write it"
    for line, loc, text in entry.node.texts():
        if text.startswith(TO_DO):
            yield Fault(entry.file, line, where(loc), message)
    if entry.card is not None:
        for line, text in enumerate(entry.card.text.split("\n"), entry.card.body_line):
            if text.startswith(TO_DO):
                yield Fault(entry.file, line, "body", message)


def _style_faults(entry: Entry) -> Iterator[Fault]:
    node = entry.node.at(("title",))
    title = node.value if isinstance(node.value, str) else ""
    if len(title) > TITLE_LENGTH:
        message = f"has {len(title)} characters; ours have at most {TITLE_LENGTH}"
        yield Fault(entry.file, node.line, "title", message)
    if title.endswith("."):
        yield Fault(entry.file, node.line, "title", "ends with a full stop; leave it out")


def nearby(file: str) -> str:
    """``file`` relative to the current folder where that is shorter to read."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive on Windows
        return file
    return file if relative.startswith("..") else relative


def main(arguments: list[str]) -> int:
    """Print every fault of a folder (default: the shipped catalogue); 1 if there is one."""
    folder = Path(arguments[0]) if arguments else catalog_dir()
    catalog = check_folder(folder)
    for fault in catalog.faults:
        print(replace(fault, file=nearby(fault.file)))
    print(summary(catalog), file=sys.stderr)
    return 1 if catalog.faults else 0


def summary(catalog: Catalog) -> str:
    """One line for the end: how much was read, and how many faults it has."""
    kinds = [kind for kind in MODELS if kind != "overlay" or catalog.entries[kind]]
    counts = ", ".join(f"{len(catalog.entries[kind])} {kind}" for kind in kinds)
    faults = len(catalog.faults)
    return f"{counts}: {faults or 'no'} fault{'' if faults == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
