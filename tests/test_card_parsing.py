"""Cards: front matter with lines, fixed sections, and plain YAML only."""

from __future__ import annotations

import time

import pytest
from small_catalog import CARD, changed

from mihack.catalog import yamllines
from mihack.catalog.card import PROBLEM_HEADINGS, Card, parse, require_headings


def read(text: str) -> Card:
    card = parse(text.encode(), "card.md")
    require_headings(card, tuple(PROBLEM_HEADINGS.values()))
    return card


def found(card: Card) -> list[tuple[int, str, str]]:
    return [(fault.line, fault.field, fault.message) for fault in card.faults]


def test_front_matter_knows_the_line_of_every_field() -> None:
    front = read(CARD).front
    assert front is not None
    lines = {
        path: front.at(path).line
        for path in [
            ("id",),
            ("works", 0, "work"),
            ("hours", 1),
            ("starter", "parameters", "task"),
            ("sources", 0, "url"),
        ]
    }
    assert list(lines.values()) == [2, 13, 16, 26, 29]


def test_sections_hold_the_markdown_and_its_line() -> None:
    sections = read(CARD).sections
    assert [(s.heading, s.line, s.text) for s in sections][:2] == [
        ("Problem", 32, "Sort."),
        ("Why it matters", 36, "It is small."),
    ]


def test_an_underlined_heading_is_a_heading_too() -> None:
    card = read(changed(CARD, ("## First steps", "First steps\n---")))
    assert card.faults == []
    assert (card.sections[2].heading, card.sections[2].text) == ("First steps", "Begin.")


def test_a_heading_in_a_code_block_is_text() -> None:
    card = read(changed(CARD, ("Begin.", "```\n## Problem\n<b>\n```")))
    assert card.faults == []
    assert card.sections[2].text == "```\n## Problem\n<b>\n```"


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_and_a_byte_order_mark_do_not_matter(ending: str) -> None:
    card = parse(b"\xef\xbb\xbf" + CARD.replace("\n", ending).encode(), "card.md")
    assert card.faults == []
    assert card.front == read(CARD).front
    assert card.sections == read(CARD).sections


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "words"),
    [
        ("## Problem\n", "## Problem\n\n## Problem\n", 34, "Problem", "here twice"),
        ("## Problem\n", "", 33, "body", "text before the first heading"),
        ("## First steps", "## Prior work", 44, "Going further", "out of order"),
        ("## First steps", "## first steps", 40, "first steps", "did you mean First steps?"),
        ("Begin.", "# Begin", 42, "body", "a # heading"),
        ("Begin.", "#### Begin", 42, "body", "deeper than ###"),
        ("Begin.", "> ## Begin", 42, "body", "inside a list or quote"),
        ("Begin.", "", 40, "First steps", "is empty"),
        ("Begin.", "### Only a heading", 40, "First steps", "is empty"),
        ("Begin.", "<script>x</script>", 42, "body", "raw HTML"),
        ("Begin.", "A\nline\nthen <i>", 44, "body", "raw HTML"),
        ("Begin.", "<!-- hidden -->", 42, "body", "raw HTML"),
        ("Begin.", "A\n[b](javascript:alert(1))", 43, "body", "full http:// or https://"),
        ("Begin.", "[b](java&#115;cript:alert(1))", 42, "body", "full http:// or https://"),
        ("Begin.", "![b](data:image/png;base64,AA)", 42, "body", "full http:// or https://"),
        ("Begin.", "[b](../../etc/passwd)", 42, "body", "full http:// or https://"),
        ("Begin.", "<vbscript:x>", 42, "body", "full http:// or https://"),
        ("Begin.", "Begin.\n\n[b]: file:///etc", 44, "link [b]", "full http:// or https://"),
        ("remains:", "post_id: 1\nremains:", 15, "post_id", "here twice (first on line 3)"),
        ("laptop", "&x laptop", 17, "compute", "the anchor &x is not allowed"),
        ("laptop", "!!python/name:os.system", 17, "compute", "the tag"),
        ("laptop", "*x", 17, "compute", "the alias *x is not allowed"),
        ("laptop", "'laptop", 17, "YAML", ""),
        (
            "tags: [sorting]",
            "tags: " + "[" * 20 + "]" * 20,
            23,
            "tags" + "[0]" * 12,
            "is nested more than",
        ),
        ("tags: [sorting]", "? [a, b]\n: c", 23, "YAML", "a key must be plain text"),
    ],
)
def test_fault_and_line(old: str, new: str, line: int, field: str, words: str) -> None:
    faults = found(read(changed(CARD, (old, new))))
    assert any((fault[0], fault[1]) == (line, field) and words in fault[2] for fault in faults), faults


def test_out_of_order_heading_names_the_order() -> None:
    swapped = changed(CARD, ("## First steps", "## X"), ("## Going further", "## First steps")).replace(
        "## X", "## Going further"
    )
    assert [(line, field) for line, field, _ in found(read(swapped))] == [(44, "First steps")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"), ("true", True), ("3", 3), ("3.10", 3.1),
        ("1e-5", 1e-5), ("'3.10'", "3.10"), ("~", None),
        ("", None), (".inf", ".inf"), ("1e999", "1e999"), ("9" * 5000, "9" * 5000),
        ("0x1F", "0x1F"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    node, faults = yamllines.read(f"a: {text}\n")
    assert node is not None
    assert faults == []
    assert node.plain() == {"a": value}


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    began = time.perf_counter()
    card = read("---\n" + "\n".join(lines) + "\n---\n")
    assert time.perf_counter() - began < 2
    assert any("alias" in fault.message for fault in card.faults)


@pytest.mark.parametrize("piece", ["[", "*a ", "> ", "- ", "`", "![", "](", "<", "&", "**a", "\t"])
def test_a_body_of_one_repeated_mark_is_parsed_in_reasonable_time(piece: str) -> None:
    text = (piece * 60000)[:60000]
    began = time.perf_counter()
    parse(f"---\na: b\n---\n\n## Problem\n\n{text}\n".encode(), "card.md")
    assert time.perf_counter() - began < 10


def test_deep_yaml_is_a_fault_and_no_traceback() -> None:
    for text in ("[" * 30000, "- " * 30000, "{a: " * 10000, "? " * 10000):
        assert read(f"---\n{text}\n---\n").faults
