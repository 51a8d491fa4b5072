"""The generated repo that one stands in, found by its .mihack.json, and what of it has changed.

``mihack new`` writes .mihack.json last: the problem, the experiment with its parameters, the answers,
and the SHA-256 of every other file as it was made. Its text is read as data: a path in it that leads
out of the repo is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MihackError
from .paths import confined

RECORD = ".mihack.json"
_OUTSIDE = "Go into the folder that `mihack new` made, or make one: mihack new ID"


@dataclass(frozen=True)
class GeneratedRepo:
    """A repo made by ``mihack new``: where it is, and what its record says it was made from."""

    root: Path
    problem: str
    title: str  # empty in repos of the first versions
    starter: str
    experiment: str
    mihack: str  # the version that made it
    parameters: Mapping[str, Any] = field(default_factory=dict)  # every knob, as generated
    answers: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # relative path -> sha256 as generated

    def state(self, path: str) -> str:
        """``same``, ``changed`` or ``deleted``: a generated file against its hash as it was made."""
        file = self.root / path
        if not file.is_file():
            return "deleted"
        return "same" if sha256(file) == self.files[path] else "changed"


def find(start: Path | None = None) -> GeneratedRepo:
    """The generated repo that ``start`` (default: the current folder) lies in.

    Raises MihackError if there is none, or if its record cannot be read.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / RECORD).is_file():
            return read(folder)
    raise MihackError(f"{here} is not inside a repo made by mihack: no {RECORD}", hint=_OUTSIDE)


def read(root: Path) -> GeneratedRepo:
    """The repo at ``root``.  Raises MihackError, with file and line, if its record is broken."""
    path = root / RECORD
    hint = "Take it from git again (git checkout .mihack.json), or from another copy of the repo."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise MihackError(f"{path}:{error.lineno}: not JSON ({error.msg})", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MihackError(f"{path}: cannot be read ({error})", hint=hint) from None
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise MihackError(f"{path}:1: not a record of mihack: no mapping 'files'", hint=hint)
    return GeneratedRepo(
        root=root,
        problem=_text(record, "problem"),
        title=_text(record, "title"),
        starter=_text(record, "starter"),
        experiment=_text(record, "experiment"),
        mihack=_text(record, "mihack"),
        parameters=_mapping(record, "parameters"),
        answers=_mapping(record, "answers"),
        event=_mapping(record, "event") or None,
        files={confined(str(name)): str(value) for name, value in record["files"].items()},
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as in .mihack.json."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text(record: Mapping[str, Any], name: str) -> str:
    return str(record.get(name) or "")


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return dict(value) if isinstance(value, dict) else {}
