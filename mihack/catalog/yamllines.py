"""YAML as values that remember their lines, read from the parser's events.

Only plain data is accepted: no tags, anchors, aliases or merge keys, and no duplicate keys.  Plain
scalars follow the YAML 1.2 core rules (``yes`` and ``12:30`` are text, not a boolean and a number),
which is also how editors read the exported JSON Schemas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 12
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE, _FALSE = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}


@dataclass
class Node:
    """A value and the line on which it (for a mapping's member, its key) starts."""

    line: int
    value: Any = None
    raw: str = ""
    members: dict[str, Node] | None = None
    items: list[Node] | None = None

    def plain(self) -> Any:
        """The value without lines."""
        if self.members is not None:
            return {key: node.plain() for key, node in self.members.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.value

    def texts(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[int, tuple[str | int, ...], str]]:
        """Every text in it: (line, path, text)."""
        inner: list[tuple[str | int, Node]] = [*(self.members or {}).items(), *enumerate(self.items or ())]
        for step, node in inner:
            yield from node.texts((*path, step))
        if isinstance(self.value, str):
            yield self.line, path, self.value

    def at(self, path: tuple[Any, ...]) -> Node:
        """The node at ``path``, or the nearest one above it that exists."""
        node = self
        for step in path:
            if node.members is not None and step in node.members:
                node = node.members[step]
            elif node.items is not None and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            else:
                break
        return node


@dataclass
class Problems:
    """What is wrong with a YAML text: (line, field, message)."""

    found: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, line: int, name: str, message: str) -> None:
        """Note one fault."""
        self.found.append((line, name, message))


def scalar(text: str) -> Any:
    """A plain (unquoted) scalar by the YAML 1.2 core rules; infinities stay text.

    >>> scalar("3.10"), scalar("yes"), scalar("1e-5")
    (3.1, 'yes', 1e-05)
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def read(text: str, first_line: int = 1) -> tuple[Node | None, list[tuple[int, str, str]]]:
    """Parse ``text``, whose first line is ``first_line`` of its file.

    Returns the root, or None if it cannot be read at all, and every fault.
    """
    problems = Problems()
    try:
        events = iter(list(yaml.parse(text, Loader=_LOADER)))
    except yaml.YAMLError as error:
        what = getattr(error, "problem", None) or "cannot be read"
        message = f"{what}; check indentation, colons and quotes here"
        problems.add(first_line + _error_line(error), "YAML", message)
        return None, problems.found
    root = _Reader(events, first_line, problems).document()
    return root, problems.found


def _error_line(error: yaml.YAMLError) -> int:
    """Where the slip is: an open bracket or quote is noticed only below the line that has it."""
    noticed, began = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    in_block = "block" in (getattr(error, "context", None) or "block")
    mark = noticed if in_block or began is None else began
    return int(mark.line) if mark else 0


class _Reader:
    """Composes nodes from events; its depth is bounded, so the recursion is."""

    def __init__(self, events: Iterator[Any], first_line: int, problems: Problems) -> None:
        self.events, self.first_line, self.problems = events, first_line, problems

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                self.problems.add(self.line(event), "YAML", "a second document; keep one per file")
                break
            if isinstance(event, yaml.NodeEvent):
                root = self.node(event, "", 0)
        return root

    def line(self, event: Any) -> int:
        return self.first_line + int(event.start_mark.line)

    def node(self, event: Any, name: str, depth: int) -> Node:
        node = Node(self.line(event))
        self.refuse_machinery(event, name)
        if depth > MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            self.problems.add(node.line, name, f"is nested more than {MAX_DEPTH} deep; flatten it")
            self.skip()
        elif isinstance(event, yaml.ScalarEvent):
            node.raw = event.value
            plain = not event.style and event.tag is None
            node.value = scalar(event.value) if plain else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            node.items = list(self.sequence(name, depth))
        elif isinstance(event, yaml.MappingStartEvent):
            node.members = self.mapping(name, depth)
        return node

    def refuse_machinery(self, event: Any, name: str) -> None:
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            message = f"the alias *{event.anchor} is not allowed; write the value out"
        elif tag is not None:
            message = f"the tag {tag!r} is not allowed; write a plain value"
        elif event.anchor is not None:
            message = f"the anchor &{event.anchor} is not allowed; write the value where it is used"
        else:
            return
        self.problems.add(self.line(event), name or "YAML", message)

    def sequence(self, name: str, depth: int) -> Iterator[Node]:
        for number, event in enumerate(self.events):
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self.node(event, f"{name}[{number}]", depth + 1)

    def mapping(self, name: str, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            line = self.line(event)
            key = self.key(event, name)
            path = f"{name}.{key}" if name else key
            value = self.node(next(self.events), path, depth + 1)
            if key in members:
                first = members[key].line
                self.problems.add(line, path, f"is here twice (first on line {first}); keep one")
                continue
            value.line = line
            members[key] = value
        return members

    def key(self, event: Any, name: str) -> str:
        if isinstance(event, yaml.ScalarEvent):
            self.refuse_machinery(event, name)
            return str(event.value)
        self.problems.add(self.line(event), name or "YAML", "a key must be plain text")
        if isinstance(event, yaml.CollectionStartEvent):
            self.skip()
        return "?"

    def skip(self) -> None:
        """Pass over the rest of a collection whose start event has just been read."""
        depth = 1
        for event in self.events:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
