"""A percent script and its cells are the same thing in two shapes."""

from __future__ import annotations

import ast

import pytest
from baking import SCRIPT
from hypothesis import given
from hypothesis import strategies as st

from mihack.scaffold.percent import Cell, Script, dump, parse

BREAKS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00\ufeff"
LINE = st.text(st.characters(exclude_characters="\n" + BREAKS, exclude_categories=["Cs"]))
MARKDOWN = st.lists(LINE | st.sampled_from(["%%", "%% [markdown]", "\\%%", "# %%", "#", ""]))
CODE = st.lists(st.sampled_from(["x = 1", "", "    y = 2", "# a comment", "#%%", "'# %%'", "class A:"]))


def not_blank_at_the_ends(lines: list[str]) -> bool:
    return not lines or bool(lines[0].strip() and lines[-1].strip())


CELLS = st.one_of(
    st.builds(Cell, st.just("markdown"), MARKDOWN.filter(not_blank_at_the_ends).map("\n".join)),
    st.builds(
        Cell,
        st.just("code"),
        CODE.filter(not_blank_at_the_ends).map("\n".join),
        st.sampled_from(["", "knobs", "a longer title"]),
    ),
)


@given(st.sampled_from(["", '"""Doc."""', "'''\nDoc.\n\n'''"]), st.lists(CELLS))
def test_parse_undoes_dump(preamble: str, cells: list[Cell]) -> None:
    script = Script(preamble, tuple(cells))
    assert parse(dump(script)) == script


@given(st.lists(CELLS))
def test_dump_undoes_parse_on_what_dump_wrote(cells: list[Cell]) -> None:
    text = dump(Script("", tuple(cells)))
    assert dump(parse(text)) == text


def test_a_real_script_survives_unchanged() -> None:
    assert dump(parse(SCRIPT)) == SCRIPT


def test_cells_have_their_kind_and_title() -> None:
    script = parse(SCRIPT)
    assert script.preamble.startswith('"""Counting')
    kinds = [(cell.kind, cell.title) for cell in script.cells]
    assert kinds == [("markdown", ""), ("code", ""), ("code", "knobs"), ("code", ""), ("code", "")]
    assert script.cells[0].source.startswith("## Counting\n\nThe sum")


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(list(BREAKS + "%#\n"))))
def test_markdown_never_leaves_its_comment(text: str) -> None:
    """Whatever a card says, the script has one cell, and Python sees nothing in it."""
    written = dump(Script("", (Cell("markdown", text),)))
    assert len(parse(written).cells) == 1
    assert ast.parse(written).body == []
    assert all(line.startswith("#") for line in written.splitlines() if line)


def test_a_code_cell_that_would_be_cut_in_two_is_refused() -> None:
    with pytest.raises(ValueError, match="start a new cell"):
        dump(Script("", (Cell("code", "a = 1\n# %% no"),)))
