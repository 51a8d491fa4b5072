"""Percent-format scripts: ``# %% [markdown]`` and ``# %%`` cells in a plain Python file.

Script and notebook are both made from one list of cells, so they cannot drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["markdown", "code"]

_MARKER = re.compile(r"# %%(?: (?P<rest>.*))?\Z")
_ESCAPED = re.compile(r"\\+%%")
_ESCAPE = re.compile(r"\\*%%")
# Everything that some reader takes for the end of a line. A carriage return ends a Python comment;
# form feeds and U+2028 end one for editors. NUL is no Python at all.
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00\ufeff]")


@dataclass(frozen=True)
class Cell:
    """One cell: its kind, its source without a trailing newline, and the marker's title, if any."""

    kind: Kind
    source: str
    title: str = ""


@dataclass(frozen=True)
class Script:
    """A script as cells, with what stands before the first marker (its docstring)."""

    preamble: str
    cells: tuple[Cell, ...]


def parse(text: str) -> Script:
    """Cut a percent-format script into cells. Blank lines between cells belong to no cell."""
    preamble: list[str] = []
    heads: list[str] = []
    bodies: list[list[str]] = []
    current = preamble
    for line in text.split("\n"):
        marker = _MARKER.match(line)
        if marker is None:
            current.append(line)
            continue
        current = []
        heads.append((marker["rest"] or "").strip())
        bodies.append(current)
    cells = [_cell(head, body) for head, body in zip(heads, bodies, strict=True)]
    return Script(_trim(preamble), tuple(cells))


def dump(script: Script) -> str:
    """The script's text; ``parse(dump(script)) == script`` when no source starts or ends blank."""
    text, before = script.preamble, ""
    for cell in script.cells:
        gap = "\n" * (3 if _defines(cell, first=True) or before else 2) if text else ""
        text += gap + f"{_marker(cell)}\n{_body(cell)}".rstrip("\n")
        before = _defines(cell, first=False)
    return text + "\n"


def one_line_breaks(text: str) -> str:
    r"""``text`` with ``\n`` as its only line break, so that a comment stays a comment."""
    return _BREAKS.sub(lambda found: "\n" if found[0] in {"\r\n", "\r"} else " ", text)


def _cell(head: str, body: list[str]) -> Cell:
    if head == "[markdown]" or head.startswith("[markdown] "):
        title = head.removeprefix("[markdown]").strip()
        return Cell("markdown", _trim([_uncomment(line) for line in _strip_blank(body)]), title)
    return Cell("code", _trim(body), head)


def _strip_blank(lines: list[str]) -> list[str]:
    """Without the blank lines at both ends, which only separate cells."""
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _trim(lines: list[str]) -> str:
    return "\n".join(_strip_blank(lines))


def _uncomment(line: str) -> str:
    if line.startswith("# "):
        return _unescape(line[2:])
    if line == "#" or not line.strip():
        return ""
    raise ValueError(f"a markdown cell holds a line that is no comment: {line!r}")


def _unescape(line: str) -> str:
    return line[1:] if _ESCAPED.match(line) else line


def _defines(cell: Cell, *, first: bool) -> str:
    """The cell's first or last top-level line if it begins a function or class: two blank lines."""
    if cell.kind == "markdown":
        return ""
    tops = [line for line in cell.source.split("\n") if line and line[0] not in " \t)]}"]
    line = (tops or [""])[0 if first else -1]
    return line if line.startswith(("def ", "class ", "async def ", "@")) else ""


def _marker(cell: Cell) -> str:
    kind = ["[markdown]"] if cell.kind == "markdown" else []
    return " ".join(["# %%", *kind, *([cell.title] if cell.title else [])])


def _body(cell: Cell) -> str:
    if cell.kind == "markdown":
        return "\n".join(_comment(line) for line in one_line_breaks(cell.source).split("\n"))
    for line in cell.source.split("\n"):
        if _MARKER.match(line):
            raise ValueError(f"a code cell holds a line that would start a new cell: {line!r}")
    return cell.source


def _comment(line: str) -> str:
    if _ESCAPE.match(line):
        line = "\\" + line  # "# %%" would start a cell; Markdown shows \% as %
    return f"# {line}" if line else "#"
