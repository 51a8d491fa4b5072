"""Finding and reading a catalogue's files: never through a symlink, never outside the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mihack.catalog import yamllines
from mihack.catalog.card import LIST_BYTES, Card, decode
from mihack.catalog.faults import Fault
from mihack.catalog.yamllines import Node

LISTS = {"resources.yaml": "resources", "works.yaml": "works", "overlay.yaml": "overlay"}
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
FOLDERS = ("areas", "concepts", "problems")


@dataclass
class Entry:
    """One thing that a file describes: its kind, its key, where it stands."""

    kind: str
    key: str
    file: str
    node: Node
    model: Any = None
    card: Card | None = None


@dataclass
class Found:
    """A file of the catalogue: its kind and its path relative to the folder."""

    kind: str
    parts: tuple[str, ...]

    @property
    def relative(self) -> str:
        """The path with forward slashes."""
        return "/".join(self.parts)


def catalog_files(folder: Path, faults: list[Fault]) -> list[Found]:
    """The files of a catalogue in a fixed order; what does not belong becomes a fault."""
    found = list(_lists(folder, faults))
    for name in FOLDERS:
        if not _is_plain(folder / name, stat.S_ISDIR, faults, optional=True):
            continue
        if name != "problems":
            found += _cards(folder, (name,), name, faults)
            continue
        for area in _names(folder / name, faults):
            path = folder / name / area
            if not area.startswith(".") and _is_plain(path, stat.S_ISDIR, faults):
                found += _cards(folder, (name, area), name, faults)
    if not found and not faults:
        message = f"is no catalogue: it has none of {', '.join([*FOLDERS, *LISTS])}"
        faults.append(Fault(str(folder), 1, "folder", message))
    return found


def _lists(folder: Path, faults: list[Fault]) -> Iterator[Found]:
    for name, kind in LISTS.items():
        if (folder / name).with_suffix(".yml").exists():
            path = str((folder / name).with_suffix(".yml"))
            faults.append(Fault(path, 1, "file", f"is not read; rename it to {name}"))
        if _is_plain(folder / name, stat.S_ISREG, faults, optional=True):
            yield Found(kind, (name,))


def _cards(folder: Path, parts: tuple[str, ...], kind: str, faults: list[Fault]) -> Iterator[Found]:
    for name in _names(folder.joinpath(*parts), faults):
        path = folder.joinpath(*parts, name)
        if name.startswith(".") or not _is_plain(path, stat.S_ISREG, faults):
            continue
        if name.endswith(".md"):
            yield Found(kind, (*parts, name))
        else:
            faults.append(Fault(str(path), 1, "file", "is not a card; only .md files belong here"))


def _names(folder: Path, faults: list[Fault]) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        faults.append(Fault(str(folder), 1, "folder", f"cannot be read: {error.strerror}"))
        return []


def _is_plain(path: Path, is_kind: Any, faults: list[Fault], optional: bool = False) -> bool:
    """Whether ``path`` is a real file or folder; a symlink, a device or the other is a fault."""
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        if not optional:
            faults.append(Fault(str(path), 1, "file", f"cannot be read: {error.strerror}"))
        return False
    if is_kind(mode):
        return True
    wanted = "folder" if is_kind is stat.S_ISDIR else "file"
    what = "a symlink, which is never followed" if stat.S_ISLNK(mode) else f"not a {wanted}"
    faults.append(Fault(str(path), 1, "file", f"is {what}; put a real {wanted} here"))
    return False


def read_bytes(path: Path, shown: str, limit: int, faults: list[Fault]) -> bytes | None:
    """At most ``limit`` + 1 bytes of a file; None, and a fault, if it cannot be read."""
    try:
        # O_NOFOLLOW closes the gap between looking at the path and opening it.
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        faults.append(Fault(shown, 1, "file", f"cannot be read: {error.strerror}"))
        return None


def read_yaml(data: bytes, file: str, faults: list[Fault]) -> Node | None:
    """The mapping in a YAML file; None, and faults, if there is none."""
    text, found = decode(data, file, LIST_BYTES)
    faults += found
    if not text:
        return None
    node, problems = yamllines.read(text)
    faults += [Fault(file, line, name, message) for line, name, message in problems]
    if node is not None and node.members is not None:
        return node
    if not problems:
        faults.append(Fault(file, 1, "file", "is not a list of `name: value` fields"))
    return None
