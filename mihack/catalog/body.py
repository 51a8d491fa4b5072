"""The body of a card: Markdown parsed by markdown-it-py into sections that know their lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from mihack.catalog.faults import meant, one_of, show

SCHEMES = ("https://", "http://", "mailto:")
Found = tuple[int, str, str]  # line, field, message


@dataclass
class Section:
    """An H2 heading and the Markdown below it."""

    line: int
    heading: str
    text: str


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True})
    # Let every link through, so that a dangerous one is reported and not passed over as text.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser


@dataclass
class Body:
    """A card's Markdown: its H2 sections, the line of any text before them, its faults."""

    sections: list[Section]
    preface: int | None
    found: list[Found]


def parse(text: str, first_line: int) -> Body:
    """The body ``text``, whose first line is ``first_line`` of its file."""
    environment: dict[str, dict[str, dict[str, object]]] = {}
    tokens = _parser().parse(text, environment)
    found: list[Found] = []
    sections: list[Section] = []
    lines = text.split("\n")
    starts = [n for n, token in enumerate(tokens) if _is_h2(token)]
    before = tokens[0].map if tokens and starts[:1] != [0] else None
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=False):
        sections.append(_section(tokens[start:end], lines, first_line))
        blocks = (token.type for token in tokens[start:end] if token.level == 0)
        if all(block.startswith("heading") for block in blocks):
            found.append((sections[-1].line, sections[-1].heading, "is empty; write the section"))
    found += _faults(tokens, first_line)
    for name, reference in environment.get("references", {}).items():
        if message := link_fault(str(reference["href"])):
            where = reference.get("map")
            line = where[0] if isinstance(where, list) else 0
            found.append((first_line + line, f"link [{name.lower()}]", message))
    preface = first_line + before[0] if before else None
    return Body(sections, preface, sorted(set(found)))


def _is_h2(token: Token) -> bool:
    return token.type == "heading_open" and token.tag == "h2" and token.level == 0


def _section(tokens: list[Token], lines: list[str], first_line: int) -> Section:
    opening = tokens[0].map or [0, 1]
    maps = [token.map for token in tokens if token.map]
    end = max(span[1] for span in maps)
    text = "\n".join(lines[opening[1] : end]).strip("\n")
    return Section(first_line + opening[0], tokens[1].content.strip(), text)


def _faults(tokens: list[Token], first_line: int) -> Iterator[Found]:
    for number, token in enumerate(tokens):
        line = first_line + (token.map[0] if token.map else 0)
        if token.type == "heading_open":
            yield from _heading_faults(token, tokens[number + 1].content, line)
        elif token.type == "html_block":
            yield line, "body", _html(token.content)
        elif token.type == "inline":
            yield from _inline_faults(token.children or [], line)


def _heading_faults(token: Token, text: str, line: int) -> Iterator[Found]:
    if token.level > 0:
        yield line, "body", f"the heading {show(text)} is inside a list or quote; take it out"
    elif token.tag == "h1":
        yield line, "body", "a # heading; the title stands in the front matter, sections are ##"
    elif token.tag not in {"h2", "h3"}:
        yield line, "body", f"the heading {show(text)} is deeper than ###; flatten it"


def _inline_faults(children: list[Token], line: int) -> Iterator[Found]:
    for token in children:
        if token.type == "html_inline":
            yield line, "body", _html(token.content)
        address = token.attrGet("href" if token.type == "link_open" else "src")
        if address is not None and (message := link_fault(str(address))):
            yield line, "body", message
        # An inline token knows only its block's line; its line breaks tell the rest.
        line += token.type in {"softbreak", "hardbreak"}
        line += token.content.count("\n") if token.type in {"html_inline", "code_inline"} else 0


def _html(tag: str) -> str:
    return f"raw HTML {show(tag.strip())}; write Markdown, or put it in backticks"


def link_fault(address: str) -> str:
    """What is wrong with a link's address, or nothing."""
    if address.lower().startswith(SCHEMES):
        return ""
    return f"the link {show(address)} must be a full http:// or https:// address"


def heading_faults(
    body: Body, wanted: tuple[str, ...], extra_allowed: bool, first_line: int
) -> Iterator[Found]:
    """Missing, repeated, misplaced and unknown headings, and text before the first."""
    sections = body.sections
    if body.preface is not None:
        yield body.preface, "body", "text before the first heading; move it under one"
    first: dict[str, Section] = {}
    last = -1
    for section in sections:
        heading = section.heading
        if heading in first:
            yield section.line, heading, f"is here twice (first on line {first[heading].line})"
            continue
        first[heading] = section
        if heading in wanted:
            place = wanted.index(heading)
            if place < last:
                yield section.line, heading, f"is out of order; the order is {one_of(wanted)}"
            last = max(last, place)
        elif not extra_allowed:
            message = f"unknown heading; the headings are {one_of(wanted)}"
            yield section.line, heading, message + meant(heading, wanted)
    for heading in wanted:
        if heading not in first:
            line = sections[-1].line if sections else first_line
            yield line, heading, f'is missing; add "## {heading}"'
