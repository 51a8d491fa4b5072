"""Settings that let an editor complete and check a catalogue's files.

YAML files get their JSON Schema.  The front matter of a Markdown card is out of reach of the YAML
extension, so cards get snippets instead: one per field, with the choices to pick from, made from
the same schema.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mihack.catalog.card import AREA_HEADINGS, PROBLEM_HEADINGS
from mihack.catalog.jsonschema import to_text
from mihack.catalog.schema import Area, Concept, Problem

LISTS = {"resource": "resources.yaml", "work": "works.yaml", "overlay": "overlay.yaml"}
CARDS: dict[str, type[BaseModel]] = {"problem": Problem, "area": Area, "concept": Concept}


def files(folder: Path, workspace: Path, areas: Sequence[str]) -> dict[Path, str]:
    """Every file to write: the schemas beside the catalogue, the settings in the workspace."""
    inside = os.path.relpath(folder.resolve(), workspace.resolve()).replace(os.sep, "/")
    base = "" if inside == "." else f"{inside}/"
    schemas = {folder / "schema" / f"{kind}.schema.json": to_text(kind) for kind in LISTS}
    place = workspace / ".vscode"
    return schemas | {
        place / "settings.json": _json(settings(base)),
        place / "tasks.json": _json(tasks(base)),
        place / "mihack.code-snippets": _json(snippets(areas)),
    }


def settings(base: str) -> dict[str, Any]:
    """Which schema goes with which file; suggestions while typing in Markdown, which are off else."""
    return {
        "yaml.schemas": {
            f"./{base}schema/{kind}.schema.json": f"/{base}{name}" for kind, name in LISTS.items()
        },
        "[markdown]": {
            "editor.quickSuggestions": {"other": "on", "comments": "off", "strings": "off"},
            "editor.snippetSuggestions": "top",
        },
    }


def tasks(base: str) -> dict[str, Any]:
    """`mihack check` as a task whose faults appear in the Problems pane."""
    return {
        "version": "2.0.0",
        "tasks": [
            {
                "label": "mihack check",
                "type": "process",
                "command": "mihack",
                "args": ["check", base.rstrip("/") or "."],
                "group": {"kind": "build", "isDefault": True},
                "presentation": {"reveal": "silent", "clear": True},
                "problemMatcher": {
                    "owner": "mihack",
                    "fileLocation": ["autoDetect", "${workspaceFolder}"],
                    "pattern": {"regexp": "^(.+?):(\\d+): (.+)$", "file": 1, "line": 2, "message": 3},
                },
            }
        ],
    }


def snippets(areas: Sequence[str]) -> dict[str, Any]:
    """A snippet per field of a card, and one per kind with the fields that are required."""
    offered = {"area": list(areas), "difficulty": ["A", "B", "C", "D", "A-B", "B-C", "C-D"]}
    found: dict[str, Any] = {}
    headings = {"problem": tuple(PROBLEM_HEADINGS.values()), "area": AREA_HEADINGS, "concept": ()}
    for kind, model in CARDS.items():
        properties = model.model_json_schema()["properties"]
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        body = [_line(name, properties[name], stop, offered) for stop, name in enumerate(needed, 1)]
        sections = [line for heading in headings[kind] for line in ("", f"## {heading}", "", "TODO")]
        found[f"mihack {kind}"] = {
            "scope": "markdown",
            "prefix": f"mihack-{kind}",
            "description": f"A whole {kind} card; `mihack card new` writes one with comments.",
            "body": ["---", *body, "---", *sections],
        }
        for name in model.model_fields:
            found[f"{kind}: {name}"] = {
                "scope": "markdown",
                "prefix": name,
                "description": f"{properties[name].get('description', '')} ({kind} card)",
                "body": [_line(name, properties[name], 1, offered)],
            }
    return found


def _line(name: str, schema: dict[str, Any], stop: int, offered: dict[str, list[str]]) -> str:
    choices = offered.get(name) or _choices(schema)
    if choices:
        return f"{name}: ${{{stop}|{','.join(choices)}|}}"
    if schema.get("type") == "array":
        return f"{name}: [${{{stop}}}]"
    quoted = name in {"id", "post_id"}
    return f'{name}: "${{{stop}}}"' if quoted else f"{name}: ${{{stop}}}"


def _choices(schema: dict[str, Any]) -> list[str]:
    for option in (schema, *schema.get("anyOf", ())):
        if "enum" in option:
            return [str(value) for value in option["enum"]]
    return ["true", "false"] if schema.get("type") == "boolean" else []


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
