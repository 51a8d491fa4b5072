"""What a team changed: the files of a generated repo now, against the files as they were made.

The template is not kept in the repo.  It is planned again, from the problem and the answers in
.mihack.json, and its hashes tell whether that gives the very files that were made.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MihackError
from .generated_repo import RECORD, GeneratedRepo

if TYPE_CHECKING:
    from ..catalog.index import Index

CODE = (".py", ".ipynb")
# What a run, an editor or Python leaves behind; .github alone is part of the repo.
LEFT_BEHIND = {"results", "__pycache__", "venv", "node_modules", "build", "dist"}
LARGEST = 2_000_000  # bytes; what is longer is named, not shown


@dataclass(frozen=True)
class Change:
    """A file that is no longer as it was made: ``changed``, ``deleted`` or ``new``."""

    path: str
    state: str


def changes(repo: GeneratedRepo) -> list[Change]:
    """Every change, by path.  Needs only the hashes in .mihack.json."""
    found = [Change(path, repo.state(path)) for path in repo.files]
    found = [change for change in found if change.state != "same"]
    found += [Change(path, "new") for path in own_files(repo.root) if path not in repo.files]
    return sorted(found, key=lambda change: change.path)


def own_files(root: Path) -> Iterator[str]:
    """Every file of the repo by relative path, without results, caches and hidden ones."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not _left_behind(name) or name == ".github")
        for name in sorted(names):
            path = (Path(folder) / name).relative_to(root).as_posix()
            if not name.startswith(".") and path != RECORD:
                yield path


def _left_behind(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND or name.endswith(".egg-info")


@dataclass(frozen=True)
class Template:
    """The repo as it would be made now, and in which files that differs from how it was made."""

    files: dict[str, bytes]
    moved_on: list[str]

    def text(self, path: str) -> str | None:
        """A file's text; empty for one that it does not have, None for one that is no text."""
        return readable(path, self.files.get(path, b""))


def template(repo: GeneratedRepo, index: Index) -> Template:
    """Plan the repo again.  Raises MihackError if its problem is not in this catalogue."""
    from .plan import Answers, plan

    given = repo.answers
    settings = given.get("set") if isinstance(given.get("set"), dict) else {}
    names = {key: str(given.get(key) or "") for key in ("name", "author", "github")}
    answers = Answers(**names, settings={str(key): str(value) for key, value in (settings or {}).items()})
    if repo.problem not in index.problems:
        hint = "If it came from a catalogue of yours, add --catalog DIR or set MIHACK_CATALOG."
        raise MihackError(f"Problem {repo.problem!r} of this repo is not in the catalogue.", hint=hint)
    files = plan(index.problem(repo.problem), answers, index)
    moved_on = [path for path, digest in repo.files.items() if _digest(files.get(path)) != digest]
    return Template(files, moved_on)


def _digest(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def readable(path: str, content: bytes) -> str | None:
    """Text of a file, of a notebook its cells alone; None for what is no text, or too long."""
    if len(content) > LARGEST:
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\x00" in text:
        return None
    return _cells(text) if path.endswith(".ipynb") else text


def _cells(text: str) -> str:
    """The cells of a notebook one after the other, without outputs; the text itself if it is none."""
    try:
        return "".join(map(_cell, json.loads(text)["cells"])) if text else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _cell(cell: dict[str, Any]) -> str:
    source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
    return f"# %% [{cell['cell_type']}]\n{source}\n\n"


def unified(repo: GeneratedRepo, made: Template, change: Change) -> list[str] | None:
    """The change as lines of a unified diff without line ends; None where there is no text to show."""
    before = made.text(change.path)
    after = "" if change.state == "deleted" else _now(repo, change.path)
    if before is None or after is None:
        return None
    names = (f"a/{change.path}", f"b/{change.path}")
    old = "/dev/null" if change.path not in made.files else names[0]
    new = "/dev/null" if change.state == "deleted" else names[1]
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new, lineterm="\n")
    return [part for line in lines for part in _marked(line)]


def _now(repo: GeneratedRepo, path: str) -> str | None:
    file = repo.root / path
    try:
        return (
            readable(path, file.read_bytes()) if file.is_file() and file.stat().st_size <= LARGEST else None
        )
    except OSError:
        return None


def code_changed(repo: GeneratedRepo, found: list[Change], made: Template | None) -> list[str]:
    """Those of ``found`` that are experiments and say something else: scripts and notebooks.

    A script that was only laid out anew, and a notebook that was only run, are no change, as far as
    the template is there to tell; without it a changed notebook does not count.
    """
    return [
        change.path
        for change in found
        if change.path.endswith(CODE)
        and change.state != "deleted"
        and not change.path.startswith(("tests/", ".github/"))
        and change.path != "check_gpu.py"
        and (change.state == "new" or _says_otherwise(repo, change.path, made))
    ]


def _says_otherwise(repo: GeneratedRepo, path: str, made: Template | None) -> bool:
    if made is None or path in made.moved_on:
        return path.endswith(".py")
    before, after = made.text(path), _now(repo, path)
    if path.endswith(".ipynb") or before is None or after is None:
        return before != after
    try:
        return ast.dump(ast.parse(before)) != ast.dump(ast.parse(after))
    except (SyntaxError, ValueError, RecursionError):  # half-written
        return True


def _lines(text: str) -> list[str]:
    """Lines with their ends, split at newlines alone, as patch does."""
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _marked(line: str) -> list[str]:
    return [line[:-1]] if line.endswith("\n") else [line, "\\ No newline at end of file"]


def counted(lines: list[str]) -> tuple[int, int]:
    """(added, removed) lines of a unified diff."""
    body = lines[2:]
    return sum(line.startswith("+") for line in body), sum(line.startswith("-") for line in body)
