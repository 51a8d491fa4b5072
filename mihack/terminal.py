"""Text for a terminal: width, colour, plainness, and card text made harmless.

Cards are untrusted, and a terminal obeys escape sequences; so control characters are shown as a
space and never sent.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Set while a command line with --plain runs; MIHACK_PLAIN does the same for all of them.
PLAIN = False
# Cc control, Cs surrogate; Cf would also take joiners that emoji and Arabic need, so of it only
# the directional overrides go, which can make a line read backwards.
OVERRIDES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Columns that a table's last cell should have.
ROOM = 20
# In plain text, what Unicode itself has no ASCII for.
SIGNS = {
    **dict.fromkeys("\u2018\u2019\u201b", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\u00ad", "-"),
    **{"\u2014": "--", "\u00d7": "x", "\u00b7": "*", "\u2022": "*", "\u2190": "<-", "\u2192": "->"},
    **{"\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2248": "~", "\u00b1": "+-", "\u221e": "inf"},
    **{
        "\u00df": "ss",
        "\u00f8": "o",
        "\u00d8": "O",
        "\u0142": "l",
        "\u0141": "L",
        "\u00e6": "ae",
        "\u0131": "i",
    },
}


def plain() -> bool:
    """Whether nothing but ASCII is wanted: no colour, no boxes, nothing cut short."""
    return PLAIN or bool(os.environ.get("MIHACK_PLAIN"))


def clean(text: str, *, keep: str = "\n") -> str:
    """``text`` without control characters (each becomes a space) and directional overrides."""
    if not text.isascii() and plain():
        text = to_ascii(text)
    if text.isprintable() or ("\n" in keep and text.replace("\n", " ").isprintable()):
        return text  # nearly all text, and much faster
    import unicodedata

    return "".join(
        character if character in keep or unicodedata.category(character) not in {"Cc", "Cs"} else " "
        for character in text
        if character not in OVERRIDES
    )


def to_ascii(text: str) -> str:
    """The nearest ASCII: letters without their accents, Greek ones by name, ``?`` for the rest."""
    return "".join(character if character.isascii() else _ascii(character) for character in text)


def _ascii(character: str) -> str:
    import unicodedata

    if character in SIGNS:
        return SIGNS[character]
    if character in OVERRIDES or unicodedata.combining(character):
        return ""
    script, _, name = unicodedata.name(character, "").partition(" ")
    if script == "GREEK" and " LETTER " in f" {name}":
        word = name.split("LETTER ")[1].split()[0].lower()
        return word.capitalize() if "CAPITAL" in name else word
    near = (SIGNS.get(part, part) for part in unicodedata.normalize("NFKD", character))
    return "".join(part for part in near if part.isascii()) or (" " if character.isspace() else "?")


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
    """``text`` cut to ``columns`` with an ellipsis, and padded to exactly that; plain, it is never cut."""
    if width_of(text) > columns and not plain():
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
    """Colours only on a terminal, and never with NO_COLOR set or in plain text."""
    return (
        sys.stdout.isatty()
        and not plain()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


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
    """Lines of a table as wide as the terminal: every cell but the last fitted to its width.

    The last fills as many lines as it needs, or one below the others where they leave it no room.
    """
    start = sum(widths) + 2 * len(widths)
    room = columns()
    indent = " " * (start if room - start >= ROOM else 8)
    lines = []
    for row in table:
        cells = "".join(fit(cell, width) + "  " for cell, width in zip(row, widths, strict=False))
        if room - len(cells) >= min(ROOM, len(row[-1])):
            lines.append((cells + wrap(row[-1], room, " " * len(cells))[len(cells) :]).rstrip())
        else:
            lines += [cells.rstrip(), wrap(row[-1], room, indent)]
    return lines


def strong(text: str) -> str:
    """A name or heading, bold on a terminal."""
    if not coloured():
        return text
    import click

    return "\n".join(click.style(line, bold=True) for line in text.split("\n"))


def flow(text: str, columns: int) -> str:
    """Messages and Markdown with lines of at most ``columns``, unless one word is longer.

    A word is also what stands in backticks: a command or an address must be whole to be copied.
    What is indented by four, other than a list's item, is code and stays as it is.
    """
    return "\n".join(_flow_line(line, columns) for line in text.split("\n"))


def _flow_line(line: str, columns: int) -> str:
    if width_of(line) <= columns:
        return line
    import re

    space, mark, rest = re.fullmatch(r"(\s*)((?:[-*]|\d+\.|#+) )?(.*)", line, flags=re.S).groups("")  # type: ignore[union-attr]
    if len(space) >= 4 and not mark:
        return line
    indent = space + " " * len(mark)
    lines = [space + mark]
    for word in re.findall(r"`[^`]*`\S*|\S+", rest):
        if lines[-1].strip(" ") not in {"", mark.strip()} and width_of(lines[-1]) + width_of(word) > columns:
            lines.append(indent)
        lines[-1] += word + " "
    return "\n".join(part.rstrip() for part in lines)


def message_columns() -> int | None:
    """How wide messages may be: the terminal, or ``COLUMNS``. In a log their lines stay whole."""
    if os.environ.get("COLUMNS", "").isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    try:
        return max(40, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return None


def say(text: str) -> None:
    """A note, a hint or an error: to stderr, its words wrapped where somebody reads it."""
    import click

    room = message_columns()
    click.echo(flow(text, room) if room else text, err=True)
