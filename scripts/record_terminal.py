"""Record what commands print on a terminal, as SVG pictures in docs/images.

    python scripts/record_terminal.py            record them all anew
    python scripts/record_terminal.py --check    name those that no longer show what the command prints

Each command is run on a pseudo-terminal of 80 columns, in a folder of its own, and its output is
drawn as it came, cut after so many lines where it is long, which the picture says.  The same output
gives the same bytes.  Look at every picture before you commit it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images"
COLUMNS = 80


class Picture(NamedTuple):
    """A command as it stands in README.md, and how many lines of what it prints are shown."""

    command: str
    lines: int


PICTURES = {
    "terminal-list": Picture("mihack list --difficulty A", 22),
    "terminal-suggest": Picture("mihack suggest --hours 16 --people 3 --interest grokking", 30),
    "terminal-new": Picture("mihack new 3.16 my-repo", 30),
}

# Pixels.  The width of a character is that of most monospaced fonts; textLength makes it exact.
FONT, ADVANCE, LINE, MARGIN = 14, 8.4, 19, 16
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# Each has a contrast of at least 7 to 1 on the paper.
PAPER, INK, FAINT = "#16181d", "#e6e6e6", "#a9afba"
COLOURS = ("#a9afba", "#ff9e96", "#8fd694", "#e5c07b", "#8ab4f8", "#d7a3f5", "#7fd3e6", "#e6e6e6")


def main(arguments: list[str] | None = None) -> int:
    """Record or check; 1 if a picture is out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a picture is out of date")
    check = parser.parse_args(arguments).check
    old = []
    for name, picture in PICTURES.items():
        path = TARGET / f"{name}.svg"
        svg = draw(picture, record(picture.command))
        if not path.is_file() or path.read_text(encoding="utf-8") != svg:
            old.append(path)
            if not check:
                path.write_text(svg, encoding="utf-8", newline="\n")
    for path in old:
        print(f"{path.name}: {'out of date' if check else f'{path.stat().st_size} bytes'}")
    return int(check and bool(old))


def record(command: str, folder: str | None = None) -> str:
    """Everything that ``mihack ...`` prints on a terminal, escape sequences included."""
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            return record(command, place)
    name, *words = shlex.split(command)
    assert name == "mihack", command
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    quiet = {"NO_COLOR", "COLUMNS", "MIHACK_PLAIN", "MIHACK_CATALOG"}
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "", "PYTHONUTF8": "1"}
    environment["PYTHONPATH"] = str(TARGET.parent.parent)
    with subprocess.Popen(
        [sys.executable, "-m", "mihack", *words],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        cwd=folder,
        env=environment,
    ) as process:
        os.close(child)
        output = b"".join(iter(lambda: _read(parent), b""))
    os.close(parent)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}\n{output.decode()}")
    return output.decode().replace("\r\n", "\n").rstrip("\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # what Linux says when the other end is closed
        return b""


def draw(picture: Picture, output: str) -> str:
    """The command and the first lines of its output, as an SVG without scripts, fonts or links."""
    printed = output.split("\n")
    shown = "\n".join(printed[: picture.lines]).rstrip().split("\n")
    rest = len(printed) - len(shown)
    console = Console(width=COLUMNS, color_system="256", legacy_windows=False)
    lines = [[Segment("$ ", Style(dim=True)), Segment(picture.command, Style(bold=True))]]
    lines += [list(Text.from_ansi(line).render(console)) for line in shown]
    lines += [[Segment(f"({rest} more lines)", Style(dim=True))]] if rest else []
    width, height = round(COLUMNS * ADVANCE + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN
    body = "\n".join(text for row, segments in enumerate(lines) for text in _texts(segments, row))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label={quoteattr(picture.command)}>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n'
        f'<g font-family="{FONTS}" font-size="{FONT}">\n{body}\n</g>\n</svg>\n'
    )


def _texts(segments: list[Segment], row: int) -> list[str]:
    """A ``<text>`` per piece of one style without wide gaps, placed by its column."""
    column, found = 0, []
    for text, style, _ in segments:
        for piece in re.finditer(r"\S+(?: \S+)*", text):
            x = MARGIN + (column + cell_len(text[: piece.start()])) * ADVANCE
            size = f'textLength="{cell_len(piece[0]) * ADVANCE:.1f}" lengthAdjust="spacingAndGlyphs"'
            place = f'x="{x:.1f}" y="{MARGIN + row * LINE + FONT}"'
            found.append(f"<text {place} {size} {_look(style or Style())}>{escape(piece[0])}</text>")
        column += cell_len(text.rstrip("\n"))
    return found


def _look(style: Style) -> str:
    number = style.color.number if style.color else None
    ink = FAINT if style.dim else INK if number is None else COLOURS[number % 8]
    look = f'fill="{ink}"'
    look += ' font-weight="bold"' if style.bold else ""
    look += ' font-style="italic"' if style.italic else ""
    return look + (' text-decoration="underline"' if style.underline else "")


if __name__ == "__main__":
    sys.exit(main())
