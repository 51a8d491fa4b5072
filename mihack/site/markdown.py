"""A card's Markdown as HTML: no raw HTML, no link but http, https and mailto, no picture fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from mihack.catalog.body import SCHEMES
from mihack.terminal import clean

TERM = Markup('<a class="term" href="{root}glossary.html#term-{slug}" aria-describedby="d-{slug}">{text}</a>')
# The shortest name to look for in a text: "QK" and the like stand in formulas and code.
SHORTEST_NAME = 3


def safe_link(address: str) -> bool:
    """Whether a link may lead to ``address``: a full http or https address, or mailto."""
    return address.lower().startswith(SCHEMES) and not re.search(r"[\s\x00-\x1f]", address)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False})
    parser.validateLink = safe_link  # type: ignore[assignment,method-assign]
    return parser


def block(text: str, terms: Terms | None = None, *, level: int = 3) -> Markup:
    """Markdown of a section; its headings become those of ``level``, below the page's own.

    The first mention of each of ``terms`` becomes a link to the glossary.
    """
    tokens = _parser().parse(clean(text))
    heading = False
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{level}"
            heading = token.type == "heading_open"
        elif token.type == "inline":
            children = list(_tame(token.children or []))
            token.children = children if terms is None or heading else list(terms.linked(children))
    return Markup(_parser().renderer.render(tokens, _parser().options, {}))


def inline(text: str) -> Markup:
    """Markdown of a sentence: emphasis, code and links, no blocks."""
    tokens = _parser().parseInline(clean(text))
    for token in tokens:
        token.children = list(_tame(token.children or []))
    return Markup(_parser().renderer.render(tokens, _parser().options, {}))


def _tame(children: list[Token]) -> Iterator[Token]:
    """Links that tell nobody where one came from; pictures, which would be fetched, as their text."""
    for token in children:
        if token.type == "link_open":
            token.attrSet("rel", "noreferrer")
        if token.type == "image":
            token = Token("text", "", 0, content=token.content)
        yield token


class Terms:
    """Glossary terms to mark in one page: each where it is first mentioned."""

    def __init__(self, concepts: Mapping[str, Mapping[str, object]], root: str) -> None:
        self._root = root
        self._slugs: dict[str, str] = {}
        for slug, concept in concepts.items():
            aliases = concept.get("aliases")
            for name in (concept["term"], *(aliases if isinstance(aliases, list) else [])):
                if len(str(name)) >= SHORTEST_NAME:
                    self._slugs.setdefault(str(name).casefold(), slug)
        names = sorted(self._slugs, key=len, reverse=True)
        either = "|".join(map(re.escape, names)) or r"(?!)"
        self._pattern = re.compile(rf"(?<![\w-])({either})(?:s|es)?(?![\w-])", re.IGNORECASE)
        self.seen: dict[str, None] = {}  # slugs, in the order of their first mention

    def linked(self, children: list[Token]) -> Iterator[Token]:
        """The tokens of a paragraph, with links at first mentions; never inside another link."""
        depth = 0
        for token in children:
            depth += token.nesting if token.type.startswith("link_") else 0
            if token.type == "text" and depth == 0:
                yield from self._split(token.content)
            else:
                yield token

    def _split(self, text: str) -> Iterator[Token]:
        end = 0
        for found in self._pattern.finditer(text):
            slug = self._slugs.get(found[1].casefold(), "")
            if not slug or slug in self.seen:
                continue
            self.seen[slug] = None
            yield Token("text", "", 0, content=text[end : found.start()])
            link = TERM.format(root=self._root, slug=slug, text=found[0])
            yield Token("html_inline", "", 0, content=str(link))
            end = found.end()
        yield Token("text", "", 0, content=text[end:])
