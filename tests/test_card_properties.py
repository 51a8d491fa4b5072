"""Any text at all: the card parser answers with faults, never with an exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_catalog import CARD, FILES, write

from mihack.catalog import yamllines
from mihack.catalog.card import PROBLEM_HEADINGS, parse, require_headings
from mihack.catalog.check import check_layer
from mihack.catalog.faults import validate
from mihack.catalog.schema import Problem

HEADINGS = tuple(PROBLEM_HEADINGS.values())
LINES = CARD.split("\n")
PIECES = st.sampled_from(
    [
        "---",
        "## Problem",
        "id:",
        "- ",
        "[",
        "{",
        '"',
        "<b>",
        "*",
        "`",
        "\x00",
        "\u2028",
        "\r",
        "&a",
        "*a",
        "!!x",
        "? ",
        ": ",
        "|",
        ">",
        "#",
        "%",
        "@",
    ]
)
QUICK = settings(max_examples=150, deadline=None)


@QUICK
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    card = parse(data, "card.md")
    require_headings(card, HEADINGS)
    last = data.count(b"\n") + data.count(b"\r") + 2
    assert card.faults
    assert all(1 <= fault.line <= last for fault in card.faults)


@QUICK
@given(st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=40))
def test_any_front_matter_and_body(pieces: list[str]) -> None:
    text = "---\n" + "\n".join(pieces) + "\n---\n" + "\n".join(reversed(pieces))
    card = parse(text.encode("utf-8", "surrogatepass"), "card.md")
    require_headings(card, HEADINGS)
    if card.front is not None:
        _, faults = validate(card.front, Problem, "card.md")
        assert faults
        assert all(str(fault).isprintable() for fault in faults)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(LINES) - 1), st.one_of(PIECES, st.text(max_size=30)))
def test_a_valid_card_with_any_one_line_replaced(tmp_path: Path, number: int, line: str) -> None:
    text = "\n".join([*LINES[:number], line, *LINES[number + 1 :]])
    encoded = text.encode("utf-8", "surrogatepass")
    write(tmp_path, {**FILES, "problems/demo/X-1-sort-two.md": encoded})
    for fault in check_layer(tmp_path, {"starters": {}}).faults:
        assert str(fault).isprintable()


def plain_text() -> st.SearchStrategy[str]:
    """Text without control characters, line ends and lone surrogates."""
    return st.text(
        st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=80
    ).filter(lambda text: text.strip() == text != "")


@QUICK
@given(plain_text(), plain_text(), st.integers(1, 50), st.integers(0, 50), st.booleans())
def test_a_valid_card_round_trips(title: str, remains: str, low: int, more: int, starred: bool) -> None:
    front: dict[str, Any] = {
        **_valid_front(),
        "title": title,
        "remains": remains,
        "hours": [low, low + more],
        "starred": starred,
    }
    # JSON is YAML, so each value can be written as JSON.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]
    sections = [f"## {heading}\n\nText of {heading}.\n" for heading in HEADINGS]
    card = parse("\n".join(["---", *lines, "---", "", *sections]).encode(), "card.md")
    require_headings(card, HEADINGS)
    assert card.front is not None
    model, faults = validate(card.front, Problem, "card.md")
    assert (card.faults, faults) == ([], [])
    assert model.model_dump(exclude_unset=True) == front
    assert [s.text for s in card.sections] == [f"Text of {heading}." for heading in HEADINGS]


def _valid_front() -> dict[str, Any]:
    card = parse(CARD.encode(), "card.md")
    assert card.front is not None
    front: dict[str, Any] = card.front.plain()
    return front


@QUICK
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**14), 10**14) | plain_text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(plain_text().filter(lambda text: len(text) < 40), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_yaml_reads_back_what_json_writes(value: Any) -> None:
    node, faults = yamllines.read(json.dumps({"a": value}, indent=1, ensure_ascii=False))
    assert faults == []
    assert node is not None
    assert node.plain() == {"a": value}
