"""A card: YAML front matter between two ``---`` lines, then Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field

from mihack.catalog import yamllines
from mihack.catalog.body import Body, Section, heading_faults
from mihack.catalog.body import parse as parse_body
from mihack.catalog.faults import Fault
from mihack.catalog.fields import bad_characters
from mihack.catalog.yamllines import Node

CARD_BYTES = 65536
LIST_BYTES = 1048576
PROBLEM_HEADINGS = {
    "problem": "Problem",
    "why": "Why it matters",
    "first_steps": "First steps",
    "further": "Going further",
    "prior_work": "Prior work",
}
AREA_HEADINGS = (
    "What it is",
    "Why it suits a hackathon",
    "What to understand first",
    "Typical mistakes",
    "Where to start",
)


@dataclass
class Card:
    """A card's front matter with lines, its sections, and what is wrong with either."""

    file: str
    front: Node | None = None
    text: str = ""
    body: Body | None = None
    body_line: int = 1
    faults: list[Fault] = field(default_factory=list)

    @property
    def sections(self) -> list[Section]:
        """The H2 sections of the body."""
        return self.body.sections if self.body else []

    def add(self, line: int, name: str, message: str) -> None:
        """Note one fault of this card."""
        self.faults.append(Fault(self.file, line, name, message))


def decode(data: bytes, file: str, limit: int = CARD_BYTES) -> tuple[str, list[Fault]]:
    """The text of a file: UTF-8, LF, no control characters (each is a fault, read as a space)."""
    if len(data) > limit:
        message = f"is larger than the {limit} bytes that such a file may have; split it"
        return "", [Fault(file, 1, "file", message)]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return "", [Fault(file, line, "file", "is not UTF-8 from here on; save it as UTF-8")]
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    faults = []
    for number, line_text in enumerate(text.split("\n"), 1):
        if bad := bad_characters(line_text, "\t"):
            message = f"has the control character {bad[0]}; delete it"
            faults.append(Fault(file, number, "file", message))
    clean = (c if c in "\n\t" or not bad_characters(c) else " " for c in text)
    return ("".join(clean) if faults else text), faults


def parse(data: bytes, file: str) -> Card:
    """Split and parse a card.  Any bytes are accepted; what is wrong with them is in ``faults``."""
    text, faults = decode(data, file)
    card = Card(file, faults=faults)
    if text or not faults:
        _split(card, text)
    return card


def _split(card: Card, text: str) -> None:
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        card.add(1, "front matter", 'is missing: the first line must be "---"')
        return
    ends = (n for n, line in enumerate(lines) if n > 0 and line.rstrip() == "---")
    end = next(ends, None)
    if end is None:
        card.add(1, "front matter", 'has no end: close it with a line "---"')
        return
    card.text, card.body_line = "\n".join(lines[end + 1 :]), end + 2
    front, found = yamllines.read("\n".join(lines[1:end]), first_line=2)
    for line, name, message in found:
        card.add(line, name, message)
    if front is not None and front.members is not None:
        card.front = front
    elif not found:
        card.add(2, "front matter", "is not a list of fields; write one `name: value` per line")
    card.body = parse_body(card.text, card.body_line)
    for line, name, message in card.body.found:
        card.add(line, name, message)


def require_headings(card: Card, wanted: tuple[str, ...], extra_allowed: bool = False) -> None:
    """Note missing, repeated, misplaced and unknown headings, if there is a body at all."""
    if card.body is not None:
        found = heading_faults(card.body, wanted, extra_allowed, card.body_line)
        for line, name, message in found:
            card.add(line, name, message)
