r"""Catalogue text, encoded for the place where it lands: it reads the same and does nothing.

A title is a value: it never passes through a template, and what arrives in a README, a
pyproject.toml or a notebook shows exactly the text of the card.
"""

from __future__ import annotations

import json
import re
import unicodedata

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$#])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_FENCE = re.compile(r"(`{3,}(?=[^`]*\Z)|~{3,})")
_STRAY_FENCE = re.compile(r"`{3,}|~{3,}")
_TICKS = re.compile(r"`+")
_LINK = re.compile(r"\](?=\(|:)(?!\(\s*(?:https?://|mailto:|#)|:\s*https?://)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSURE = set("[]|$\\")


def clean(text: str) -> str:
    """``text`` without what no text file can hold: lone surrogates, NUL, control characters.

    Line ends of every kind become newlines or spaces; direction marks and emoji stay.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character == "\n":
        return character
    category = unicodedata.category(character)
    if category == "Cs" or character == "\x00":
        return "�"
    return " " if category in {"Cc", "Zl", "Zp"} or character == "\ufeff" else character


def one_line(text: str) -> str:
    """``text`` cleaned, on one line, single spaces."""
    return " ".join(clean(text).split())


def markdown_text(text: str) -> str:
    """One line of Markdown that shows exactly ``text``: no markup, link, tag or formula in it."""
    return _ENTITY.sub(r"\&", _SPECIAL.sub(r"\\\1", one_line(text)))


def markdown_block(text: str) -> str:
    """Markdown from a card, with raw HTML shown instead of obeyed and odd links made plain text.

    Links may lead to http(s), mailto or an anchor; any other becomes text. Code keeps its ``<``
    where it is certain to be code; in doubt, a ``<`` that could open a tag is escaped.
    """
    lines = clean(text).split("\n")
    inside = _fenced(lines)
    sure = _paired(lines, inside)
    return "\n".join(
        line if fenced else _defused(line, sure) for line, fenced in zip(lines, inside, strict=True)
    )


def toml_string(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, but for DEL, which JSON leaves bare."""
    return json.dumps(one_line(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def json_text(data: object) -> str:
    """JSON for a file that people read: indented, sorted as given, final newline."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # no file can hold one bare


def url(text: str) -> str:
    """``text`` as a Markdown link target if it is plain http(s), else nothing."""
    if not re.fullmatch(r"https?://[^\s<>\\]+", text):
        return ""
    return text.replace("(", "%28").replace(")", "%29").replace("`", "%60")


def _fenced(lines: list[str]) -> list[bool]:
    """Which lines are fenced code. None is, if a fence stands anywhere but at the margin."""
    flags, fence = [], ""
    for line in lines:
        found = _FENCE.match(line)
        if fence:
            flags.append(True)
            closes = line.strip() == line.strip()[:1] * len(line.strip()) and line.startswith(fence)
            fence = "" if closes else fence
        else:
            flags.append(found is not None)
            fence = found[1] if found else ""
            if not found and _STRAY_FENCE.search(line):
                return [False] * len(lines)  # in a list or a quotation: where it ends is unsure
    return flags


def _paired(lines: list[str], inside: list[bool]) -> bool:
    """Whether every backtick outside fences has its partner on its own line."""
    for line, fenced in zip(lines, inside, strict=True):
        ticks = _TICKS.findall(line)
        if not fenced and ticks[::2] != ticks[1::2]:
            return False
    return True


def _defused(line: str, sure: bool) -> str:
    """``line`` with tags and odd links escaped, but not in what is certainly a code span."""
    if not sure or _UNSURE & set(line):
        return _LINK.sub(r"]\\", _TAG.sub("&lt;", line))
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(part if part.startswith("`") else _TAG.sub("&lt;", part) for part in parts)
