"""The schema as JSON Schema, for editors: one document per kind of file.

``python -m mihack.catalog.jsonschema`` writes catalog/schema/<kind>.schema.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mihack.catalog.fields import Slug
from mihack.catalog.schema import Area, Concept, Overlay, Problem, Resource, Work
from mihack.catalog.starter_schema import Experiment, Starter
from mihack.shipped import catalog_dir

# resource and work describe the whole file: a mapping from keys to entries.
KINDS: dict[str, Any] = {
    "problem": Problem,
    "area": Area,
    "concept": Concept,
    "resource": dict[Slug, Resource],
    "work": dict[Slug, Work],
    "overlay": Overlay,
    "starter": Starter,
    "experiment": Experiment,
}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one kind of file: a key of ``KINDS``."""
    schema = TypeAdapter(KINDS[kind]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def to_text(kind: str) -> str:
    """The exported file's text."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def schema_path(kind: str) -> Path:
    """Where the export of a kind stands."""
    return catalog_dir() / "schema" / f"{kind}.schema.json"


def main() -> int:
    """Write every export."""
    for kind in KINDS:
        schema_path(kind).parent.mkdir(exist_ok=True)
        schema_path(kind).write_text(to_text(kind), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
