"""Knob values go into a script as literals and nothing else."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from baking import ABOUT, SCRIPT, bake, problem, tiny  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from mihack.errors import MihackError
from mihack.scaffold import knobs
from mihack.scaffold.percent import parse

CELL = next(cell.source for cell in parse(SCRIPT).cells if cell.title == "knobs")
TEXT = st.text() | st.sampled_from(['"', "'''", '"""', "\\", "# %%", "\n", "é\u202e", "{{ 7*7 }}"])


def test_read_finds_the_literals_and_nothing_else() -> None:
    source = CELL + "\nlower = 1\nCALL = int('3')\nLR: float = -1e-3\nA = 1; B = 'x'"
    assert knobs.read(source) == {
        "SEED": 0, "N": 10, "WORD": "ten", "SHARE": 0.5, "LOUD": False, "LR": -1e-3, "A": 1, "B": "x",
    }  # fmt: skip


@given(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_substitute_writes_exactly_the_values(word: str, n: int, share: float, loud: bool) -> None:
    values: dict[str, Any] = {"WORD": word, "N": n, "SHARE": share, "LOUD": loud}
    written = knobs.substitute(CELL, values)
    assert knobs.read(written) == {"SEED": 0, **values}
    assert len(written.split("\n")) == len(CELL.split("\n"))
    assert [line.rpartition("  # ")[2] for line in written.split("\n")] == [
        line.rpartition("  # ")[2] for line in CELL.split("\n")
    ]


def test_substitute_counts_columns_in_bytes_and_survives_two_on_a_line() -> None:
    written = knobs.substitute('Ä = "éé"; N = 1; B = 2  # ü', {"Ä": "x", "N": 100, "B": 3})
    assert written == 'Ä = "x"; N = 100; B = 3  # ü'


def test_strings_keep_double_quotes_where_they_can() -> None:
    assert knobs.substitute('A = "x"  # c', {"A": "y"}) == 'A = "y"  # c'
    assert knobs.substitute('A = "x"  # c', {"A": 'a"b'}) == "A = 'a\"b'  # c"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", 0, "too small"),
        ("n", 1001, "too large"),
        ("n", 2.5, "not a whole number"),
        ("n", True, "not a whole number"),
        ("n", "3", "not a whole number"),
        ("share", float("nan"), "not a finite number"),
        ("share", float("inf"), "not a finite number"),
        ("word", 3, "not text"),
        ("loud", 1, "not true or false"),
        ("seed", 1, "no parameter 'seed'"),  # a knob, but not one that the yaml offers
        ("wrod", "x", "no parameter 'wrod'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(MihackError, match=message):
        knobs.check({name: value}, ABOUT["knobs"], knobs.read(CELL))


def test_an_unknown_name_brings_the_close_one() -> None:
    with pytest.raises(MihackError) as caught:
        knobs.check({"wrod": "x"}, ABOUT["knobs"], knobs.read(CELL))
    assert "word" in caught.value.hint


def test_choices_are_listed() -> None:
    with pytest.raises(MihackError) as caught:
        knobs.check({"word": "x"}, {"word": {"choices": ["one", "two"]}}, {"WORD": "one"})
    assert caught.value.hint == "Choose one of: one, two"


def test_settings_are_read_as_the_type_of_the_knob() -> None:
    defaults = knobs.read(CELL)
    texts = {"n": "20", "word": "20", "share": "1", "loud": "yes", "what": "ever"}
    assert knobs.from_text(texts, defaults) == {
        "n": 20, "word": "20", "share": 1.0, "loud": True, "what": "ever",
    }  # fmt: skip
    for name in ("n", "share", "loud"):
        with pytest.raises(MihackError, match=name):
            knobs.from_text({name: "maybe"}, defaults)


def test_settings_win_over_the_card_and_choose_the_expected_rows() -> None:
    import json

    card = problem(starter={"name": "tiny", "parameters": {"task": "count", "n": 10, "word": "x"}})
    files = bake(card, settings={"n": "20"})
    assert "N = 20  # how far to count" in files["experiment.py"].decode()
    expected = json.loads(files["expected.json"])
    assert expected["knobs"] == {"SEED": 0, "N": 20, "WORD": "x", "SHARE": 0.5, "LOUD": False}
    assert [row["at_least"] for row in expected["rows"]] == [210]
    ast.parse(files["experiment.py"])


def test_the_selector_cannot_be_set() -> None:
    with pytest.raises(MihackError, match="task chooses the experiment"):
        bake(settings={"task": "other"})
