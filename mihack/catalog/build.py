"""From a folder of checked cards to the one JSON index that the commands read.

    python -m mihack.catalog.build      writes mihack/catalog.json, mihack/texts.json and catalog/schema/

The index is ``{"format": 3, "problems": {id: ...}, "areas": ..., "concepts": ..., "resources": ...,
"works": ..., "starters": ...}``; written down, what ``list`` need not read of a problem or an
area, and all kinds but these two, stand in the second file.  A user's folder may also have an
``overlay``.  An entry is the card's front
matter with every default filled in, and besides:

- problem: ``file`` (relative to the catalogue), ``sections`` {problem, why, first_steps, further,
  prior_work} -> Markdown
- area: ``file``, ``sections`` [{heading, text}], in the card's order
- concept: ``file``, ``body`` (Markdown, may be empty)
- starter: its manifest and ``experiments`` {name: its YAML, each knob with the script's default}

The same cards give the same bytes: entries are sorted, and there is no time and no path in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mihack.catalog import jsonschema
from mihack.catalog.card import PROBLEM_HEADINGS, Card
from mihack.catalog.check import MODELS, Catalog, check_shipped
from mihack.catalog.files import Entry
from mihack.catalog.index import FORMAT, LISTED_FIELDS, READ_LATER, natural
from mihack.shipped import index_path, texts_path


def build(catalog: Catalog, *, partial: bool = False) -> dict[str, Any]:
    """The index of a catalogue without faults; if ``partial``, of what is usable."""
    if catalog.faults and not partial:
        raise ValueError(f"{len(catalog.faults)} faults, the first: {catalog.faults[0]}")
    index: dict[str, Any] = {"format": FORMAT}
    for kind in [name for name in MODELS if name != "overlay"]:
        entries = {k: e for k, e in catalog.entries[kind].items() if _usable(e)}
        index[kind] = {key: _entry(entries[key], catalog) for key in sorted(entries, key=natural)}
    index["areas"] = dict(sorted(index["areas"].items(), key=lambda item: item[1]["order"]))
    for entry in catalog.entries["overlay"].values():  # at most one
        index["overlay"] = entry.model.model_dump()
    index["starters"] = {name: catalog.starters[name] for name in sorted(catalog.starters)}
    return index


def _usable(entry: Entry) -> bool:
    """Whether its own fields and headings are right; what it names may still be missing."""
    headings = [section.heading for section in entry.card.sections] if entry.card else []
    complete = entry.kind != "problems" or headings == list(PROBLEM_HEADINGS.values())
    return entry.model is not None and complete


def _entry(entry: Entry, catalog: Catalog) -> dict[str, Any]:
    data: dict[str, Any] = entry.model.model_dump()
    if entry.card is not None:
        data["file"] = Path(entry.file).relative_to(catalog.folder).as_posix()
        data |= _text(entry.kind, entry.card)
    return data


def _text(kind: str, card: Card) -> dict[str, Any]:
    if kind == "concepts":
        return {"body": card.text.strip("\n")}
    if kind == "areas":
        return {"sections": [{"heading": s.heading, "text": s.text} for s in card.sections]}
    texts = {section.heading: section.text for section in card.sections}
    return {"sections": {key: texts[heading] for key, heading in PROBLEM_HEADINGS.items()}}


def halves(index: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``list`` reads, and the rest."""
    listed: dict[str, Any] = {"format": index["format"], "problems": {}, "areas": {}}
    rest: dict[str, Any] = {"format": index["format"], "cards": {}, "area_texts": {}}
    for key, item in index["problems"].items():
        listed["problems"][key] = {name: item[name] for name in LISTED_FIELDS}
        rest["cards"][key] = {name: item[name] for name in item if name not in LISTED_FIELDS}
    for key, item in index["areas"].items():
        listed["areas"][key] = {name: item[name] for name in item if name != "sections"}
        rest["area_texts"][key] = item["sections"]
    if index.get("overlay"):
        listed["overlay"] = index["overlay"]
    return listed, rest | {kind: index[kind] for kind in READ_LATER}


def to_json(index: dict[str, Any]) -> str:
    """The index as JSON with one entry per line: quick to read, and a card's change is one line."""
    parts = [f'{{"format": {index["format"]}']
    for kind in [name for name in index if name != "format"]:
        lines = ",\n".join(f"{_json(key)}: {_json(value)}" for key, value in index[kind].items())
        parts.append(f'"{kind}": {{\n{lines}\n}}' if lines else f'"{kind}": {{}}')
    return ",\n".join(parts) + "}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def main(arguments: list[str]) -> int:
    """Write the index and the schemas; print the faults and write no index if there are any.

    ``--partial`` leaves out the unusable, for trying cards out while others are being written.
    """
    jsonschema.main()
    catalog = check_shipped()
    for fault in catalog.faults:
        print(fault, file=sys.stderr)
    partial = arguments == ["--partial"]
    if catalog.faults and not partial:
        print(f"{len(catalog.faults)} faults: no index written", file=sys.stderr)
        return 1
    index = build(catalog, partial=partial)
    for path, half in zip((index_path(), texts_path()), halves(index), strict=True):
        text = to_json(half)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.name}: {len(index['problems'])} problems, {len(text)} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
