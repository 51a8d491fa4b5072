"""REPORT.md as sections of safe HTML: your words, with no raw HTML and with pictures put inside the page.

Comments (the prompts of the template) are left out, any other HTML is shown as it is written, links lead
to http, https, mailto or a file beside the report, and a picture that lies in the repo becomes a data URI.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

SECTIONS = ("Abstract", "Introduction", "Methods", "Results", "Discussion", "References", "Appendix")
TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp", ".svg": "svg+xml"}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"(?:https?://|mailto:|#|\.{0,2}/?[\w%-][\w./%-]*(?:#[\w%-]*)?$)", re.IGNORECASE)
_NO_AUTHORS = re.compile(r"^.*\bAuthors?:[ \t]*(?=$|<!--)", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading of the second level."""

    title: str
    line: int  # of its heading, from 1
    html: str

    @property
    def written(self) -> bool:
        """Whether it holds anything but prompts."""
        return bool(re.sub(r"<(?!img)[^>]*>", "", self.html).strip())


@dataclass(frozen=True)
class Text:
    """A Markdown file: its title, what stands before the first section, the sections."""

    title: str
    opening: str
    sections: list[Section]
    faults: list[str] = field(default_factory=list)  # with file and line
    pictures: list[Path] = field(default_factory=list)  # those that are shown in it

    def section(self, title: str) -> Section | None:
        """The section of this title, upper or lower case."""
        same = (part for part in self.sections if part.title.casefold() == title.casefold())
        return next(same, None)


def read_text(path: Path, pictures: Sequence[Path] = ()) -> Text:
    """``path`` as sections.  Pictures are looked for beside the file, then in the folders ``pictures``."""
    source = path.read_text(encoding="utf-8", errors="replace").replace("\x00", " ")
    faults: list[str] = []
    shown: list[Path] = []
    parser = _parser()
    env: dict[str, Any] = {
        "places": [path.parent, *pictures], "root": path.parent.resolve(), "faults": faults,
        "name": path.name, "shown": shown, "parser": parser, "source": source,
    }  # fmt: skip
    tokens = parser.parse(source, env)
    _figures(tokens)
    title, parts = _split(tokens)
    sections = [
        Section(name, line, parser.renderer.render(inside, parser.options, env))
        for name, line, inside in parts
    ]
    return Text(title, sections[0].html, sections[1:], [*faults, *_unclosed(path.name, source)], shown)


def unwritten(path: Path, text: Text) -> list[str]:
    """What is still a prompt or missing in the report, each as ``REPORT.md:12: what to do``."""
    told = []
    source = path.read_text(encoding="utf-8", errors="replace")
    for title in SECTIONS:
        part = text.section(title)
        if part is None:
            told.append(f"{path.name}:1: no section {title!r}. Add a heading: ## {title}")
        elif not part.written and title != "Appendix":
            told.append(f"{path.name}:{part.line}: {title} is not written yet")
    for found in _NO_AUTHORS.finditer(source):
        told.append(f"{path.name}:{_line(source, found.start())}: no authors named")
    return told


def _parser() -> MarkdownIt:
    # "html" makes tokens of tags, so that comments can be told apart; the rules below escape the rest
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    parser.add_render_rule("html_block", _block)
    parser.add_render_rule("html_inline", _inline)
    parser.add_render_rule("image", _image)
    return parser


def _block(
    self: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    """A comment vanishes and what follows it is Markdown again; any other block of HTML is shown as text."""
    source = tokens[place].content
    rest = _COMMENT.sub("", source, count=1) if source.lstrip().startswith("<!--") else source
    if rest != source:
        return str(env["parser"].render(rest.strip(), env)) if rest.strip() else ""
    return f"<p>{html.escape(source.strip())}</p>\n"


def _inline(
    self: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    source = tokens[place].content
    return "" if source.startswith("<!--") else html.escape(source)


def _image(
    self: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    token = tokens[place]
    caption = html.escape(token.content)
    name = str(token.attrs.get("src", ""))
    path = _picture(name, env)
    if path is None:
        line = _line(env["source"], max(0, env["source"].find(f"]({name}")))
        env["faults"].append(
            f"{env['name']}:{line}: no picture {name!r} in this repo or in figures/ of the run"
        )
        return f"<em>[no picture {html.escape(name)}: {caption}]</em>"
    env["shown"].append(path)
    shown = f'<img src="{data_uri(path)}" alt="{caption}">'
    return f"{shown}<figcaption>{caption}</figcaption>" if token.meta.get("figure") else shown


def _picture(name: str, env: Mapping[str, Any]) -> Path | None:
    """The file that an address means, if it is a picture inside the repo."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", name, re.IGNORECASE):
        return None  # nothing is fetched
    for place in env["places"]:
        path: Path = (place / name.replace("%20", " ")).resolve()
        if path.suffix.lower() in TYPES and path.is_file() and path.is_relative_to(env["root"]):
            return path
    return None


def data_uri(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _figures(tokens: list[Token]) -> None:
    """A paragraph that is one picture becomes a figure with its alternative text as caption."""
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        alone = inline.type == "inline" and [child.type for child in inline.children or []] == ["image"]
        if alone and before.type == "paragraph_open" and not before.hidden:
            before.tag = after.tag = "figure"
            (inline.children or [])[0].meta["figure"] = True


def _split(tokens: list[Token]) -> tuple[str, list[tuple[str, int, list[Token]]]]:
    """The title, and (name, line, tokens) of the opening and each section; deeper headings in order."""
    title, parts = "", [("", 1, list[Token]())]
    level, walk = 2, iter(tokens)
    for token in walk:
        if token.type != "heading_open" or token.level:  # a heading in a quotation or a list is text
            parts[-1][2].append(_tamed(token))
            continue
        inline, closing = next(walk), next(walk)
        if token.tag == "h1" and not title and len(parts) == 1:
            title = plain(inline)
        elif token.tag == "h2":
            parts.append((plain(inline), (token.map or [0])[0] + 1, []))
            level = 2
        else:  # no level is left out on the way down, and none is above the section's
            level = max(3, min(int(token.tag[1]), level + 1))
            token.tag = closing.tag = f"h{level}"
            parts[-1][2].extend([token, inline, closing])
    return title, parts


def _tamed(token: Token) -> Token:
    """Headings inside quotations and lists as bold text: the outline is the report's own."""
    if token.type in {"heading_open", "heading_close"}:
        token.tag = "p"
    return token


def plain(inline: Token) -> str:
    """The text of a heading without its marks."""
    return "".join(_texts(inline.children or [])).strip()


def _texts(children: Sequence[Token]) -> Iterator[str]:
    for child in children:
        if child.type in {"text", "code_inline"}:
            yield child.content
        elif child.type in {"softbreak", "hardbreak"}:
            yield " "


def _unclosed(name: str, source: str) -> Iterator[str]:
    rest = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)
    if "<!--" in re.sub(
        r"```.*?```|`[^`\n]*`", lambda found: "\n" * found[0].count("\n"), rest, flags=re.DOTALL
    ):
        line = _line(rest, rest.index("<!--"))
        yield f"{name}:{line}: a comment that never ends hides what follows. Close it with -->"


def _line(source: str, place: int) -> int:
    return source.count("\n", 0, place) + 1
