"""Text for a terminal: width, colour, and card text made harmless.

Cards are untrusted, and a terminal obeys escape sequences; so control characters are shown as a
space and never sent.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Cc control, Cs surrogate; Cf would also take joiners that emoji and Arabic need, so of it only
# the directional overrides go, which can make a line read backwards.
OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str, *, keep: str = "\n") -> str:
    """``text`` without control characters (each becomes a space) and directional overrides."""
    if text.isprintable() or ("\n" in keep and text.replace("\n", " ").isprintable()):
        return text  # nearly all text, and much faster
    import unicodedata

    return "".join(
        character if character in keep or unicodedata.category(character) not in {"Cc", "Cs"} else " "
        for character in text
        if character not in OVERRIDES
    )


def one_line(text: str) -> str:
    """Clean text on a single line."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    return " ".join(clean(text, keep="").split())


def width_of(text: str) -> int:
    """Columns that ``text`` takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def fit(text: str, columns: int) -> str:
    """``text`` cut to ``columns`` with an ellipsis, and padded to exactly that."""
    if width_of(text) > columns:
        kept = ""
        for character in text:
            if width_of(kept + character) > columns - 1:
                break
            kept += character
        text = kept + "…"
    return text + " " * max(0, columns - width_of(text))


def columns() -> int:
    """Width to print at: the terminal's, or 80 when there is none."""
    try:
        return max(40, int(os.environ.get("COLUMNS", "")))
    except ValueError:
        pass
    try:
        return max(40, os.get_terminal_size(sys.stdout.fileno()).columns)
    except (OSError, ValueError):
        return 80


def coloured() -> bool:
    """Colours only on a terminal, and never with NO_COLOR set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wrap(text: str, columns: int, indent: str = "") -> str:
    """Words of ``text`` filled into lines of ``columns``, each starting with ``indent``."""
    if text.isascii():
        return _wrap_ascii(" ".join(text.split()), columns - len(indent), indent)
    lines, line = [], indent
    for word in (part for long in text.split() for part in _pieces(long, columns - len(indent))):
        if line.strip() and width_of(line) + 1 + width_of(word) > columns:
            lines.append(line)
            line = indent
        line += (" " if line.strip() else "") + word
    return "\n".join([*lines, line])


def _wrap_ascii(text: str, width: int, indent: str) -> str:
    """The same for text in which every character takes one column, and much faster."""
    lines = []
    while len(text) > width:
        space = text.rfind(" ", 0, width + 1)
        end = space if space > 0 else width
        lines.append(indent + text[:end])
        text = text[end:].lstrip(" ")
    return "\n".join([*lines, indent + text]) if lines else indent + text


def _pieces(word: str, columns: int) -> list[str]:
    """A word in pieces that fit a line: an address, or a language that writes no spaces."""
    if len(word) * 2 <= columns or width_of(word) <= columns:
        return [word]
    pieces = [""]
    for character in word:
        if width_of(pieces[-1] + character) > columns:
            pieces.append("")
        pieces[-1] += character
    return pieces


def rows(table: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Rows with every cell but the last fitted to its width."""
    return [
        "  ".join([*(fit(cell, width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in table
    ]
