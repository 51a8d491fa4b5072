"""Cards to fill in: every field with what it says, and TODO where somebody must write.

`mihack check` names each TODO with its line, so a blank card comes with its own list of things to
do, and is finished when the check is content.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mihack.catalog.card import PROBLEM_HEADINGS
from mihack.catalog.check import TO_DO
from mihack.catalog.faults import validate
from mihack.catalog.fields import ProblemId, Slug
from mihack.catalog.schema import Area, Concept, Problem
from mihack.catalog.yamllines import Node, scalar
from mihack.errors import MihackError

# What each part is for, under its heading; the words of the guide in docs/authoring.md, shorter.
PROBLEM_PROMPTS = {
    "problem": "what is asked, precisely enough to start? What would count as an answer?",
    "why": "why does it matter, and to whom? If it is mostly practice, say so.",
    "first_steps": "four to six numbered steps with models, data, calls and shapes; a control; a trap.\n"
    "End with a line that starts with **A weekend's result:**",
    "further": "two to four bullets for a team that has more than a weekend.",
    "prior_work": "each work in `works` and what it found; or that you searched, where, and found none.",
}
AREA_PROMPTS = {
    "What it is": "the area in a paragraph.",
    "Why it suits a hackathon": "what a team can finish in a weekend, and how it usually feels.",
    "What to understand first": "the concepts, in the order in which to read them.",
    "Typical mistakes": "what goes wrong, and how one notices.",
    "Where to start": "which problem first, for whom.",
}
OVERLAY = """\
# yaml-language-server: $schema=schema/overlay.schema.json
# What this folder says about the catalogue below it. Every part may be left out: delete what you
# do not need. docs/authoring.md describes the fields, `mihack check` names every fault.

# Shown over `mihack list`, and written into each repo that `mihack new` makes.
event:
  name: TODO the event's name
  starts: TODO
  ends: TODO
  # until: 2026-12-06T16:00
  # url: https://example.org/our-weekend
  # note: Bring a laptop.

# Nothing but these problems (and the folder's own):
# only: ["3.1", "3.3", "1.10"]

# Without these problems, or whole areas:
# hide: ["6.48"]
# hide_areas: [image-models]

# Rated otherwise here; the card keeps its own rating, and `mihack show` prints both:
# change:
#   - problem: "3.1"
#     difficulty: B
#     hours: [3, 8]
#     compute: laptop
#     coding: low
#     reason: Our starter already trains the model.
"""


def file_for(kind: str, key: str, title: str, area: str) -> Path:
    """Where such a card stands in its folder."""
    if kind == "problem":
        return Path("problems", area, f"{key}-{slug_of(title)}.md")
    return Path("overlay.yaml") if kind == "overlay" else Path(f"{kind}s", f"{key}.md")


def text_for(kind: str, key: str, title: str, area: str, today: str) -> str:
    """The text of a blank card of this kind.

    ``key``: a problem's id, a concept's or an area's slug.  Raises MihackError for a key that the
    catalogue would refuse.
    """
    if kind == "overlay":
        return OVERLAY
    _refuse(key, ProblemId if kind == "problem" else Slug, "--title" if kind == "area" else "ID")
    if kind == "area":
        values = {"title": title, "summary": _todo("what the area is, in a sentence or two"),
                  "order": 100, "coding": "some", "post": None}  # fmt: skip
        return _card(Area, values, AREA_PROMPTS)
    if kind == "concept":
        values = {"term": title, "aliases": [], "summary": _todo("the definition, in about two sentences"),
                  "formula": None, "transformer_lens": None, "see_also": [], "links": []}  # fmt: skip
        return _card(Concept, values, {})
    values = {
        "id": key, "title": title, "area": area, "subarea": _todo("the heading it belongs under"),
        "difficulty": "B", "difficulty_basis": "estimated", "difficulty_reason": _todo("why we rated it so"),
        "starred": False, "status": "unknown", "reviewed": today, "works": [],
        "remains": _todo("one sentence"), "hours": [4, 16], "compute": "laptop", "coding": "some",
        "concepts": [], "models": [_todo("a model in words")], "resources": [], "related": [], "tags": [],
        "starter": None, "sources": [{"label": _todo("where it was posed"), "url": _todo("its address")}],
    }  # fmt: skip
    prompts = {PROBLEM_HEADINGS[name]: prompt for name, prompt in PROBLEM_PROMPTS.items()}
    return _card(Problem, values, prompts)


def next_id(taken: Iterable[str], series: str = "X") -> str:
    """The first number of a series that nothing has: X-1, X-2 ...

    >>> next_id(["X-1", "x-7", "3.1"])
    'X-8'
    """
    numbers = [re.fullmatch(rf"{series}-(\d+)", key, re.IGNORECASE) for key in taken]
    return f"{series}-{max((int(match[1]) for match in numbers if match), default=0) + 1}"


def slug_of(title: str) -> str:
    """The end of a file's name: the title in small ASCII letters, at most eight words."""
    from mihack.scaffold.paths import slug

    return "-".join(slug(title, fallback="untitled").split("-")[:8])


def write_new(path: Path, text: str) -> None:
    """Write a new file, with the folders above it; MihackError if there is one or it cannot be."""
    if path.exists() or path.is_symlink():
        hint = "It was left as it is. Give another id or title, or edit that file."
        raise MihackError(f"{path} is already there.", hint=hint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        reason = f"{path} cannot be written: {os.strerror(error.errno or 0)}"
        raise MihackError(reason, hint="Name another folder with --in.") from error


def _refuse(key: str, kind: Any, what: str) -> None:
    _, faults = validate(Node(1, key, key), kind, "")
    if faults:
        raise MihackError(f"{what}: {faults[0].message}")


def _todo(what: str) -> str:
    return f"{TO_DO} {what}"


def _card(model: type[BaseModel], values: Mapping[str, Any], prompts: Mapping[str, str]) -> str:
    lines = ["---"]
    for name, field in model.model_fields.items():
        lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 97)]
        if name == "works":
            lines.append("#   - {work: someone-2020-sorting, bearing: What it settles here.}")
        if name == "starter":
            lines.append("#   {name: algorithmic, parameters: {task: modular}, fit: near, note: What to replace.}")
        if (name in values and values[name] is not None) or name == "starter":
            lines += _field(name, values[name])
        else:
            lines.append(f"# {name}:")
    lines += ["---", ""]
    for heading, prompt in prompts.items():
        lines += [f"## {heading}", "", *(_todo(line) for line in prompt.split("\n")), ""]
    return "\n".join(lines)


def _field(name: str, value: Any) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        entries = [f"{key}: {_plain(inner)}" for key, inner in value[0].items()]
        return [f"{name}:", f"  - {entries[0]}", *(f"    {entry}" for entry in entries[1:])]
    return [f"{name}: {_plain(value)}"]


def _plain(value: Any) -> str:
    """A value as YAML on one line: JSON is YAML, and quotes keep 3.10 a text."""
    plain = r"[A-Za-z][A-Za-z-]*(?: [A-Za-z-]+)*|\d{4}-\d\d-\d\d"
    if isinstance(value, str) and re.fullmatch(plain, value) and isinstance(scalar(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)
