"""Card text that wants to command the terminal, or rich, gets nowhere; JSON stays JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from baking import index, problem

from mihack import cli
from mihack.catalog.index import Index
from mihack.commands import explain, list, show

# ESC and C1 sequences, bell, carriage return, a reversing override, rich's markup, a hyperlink
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31mred\rover\u202ewritten [bold red]loud[/] [link=file:///etc]x[/link]"
FORBIDDEN = set(map(chr, (*range(32), 127, *range(0x80, 0xA0)))) - {"\n"} | {"\u202e"}
Call = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """Standard output as a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def card(**changes: Any) -> dict[str, Any]:
    """A complete card, with changes."""
    rest = {
        "area": "evil",
        "subarea": "",
        "starred": False,
        "models": [],
        "related": [],
        "tags": [],
        "coding": "low",
    }
    return problem(**{**rest, **changes})


def hostile() -> Index:
    """A catalogue whose every text is evil."""
    evil = card(
        related=["9.1", EVIL],
        title=EVIL,
        subarea=EVIL,
        remains=EVIL,
        tags=[EVIL],
        models=[EVIL],
        sections=dict.fromkeys(show.SECTIONS, f"{EVIL}\n\n```python\n{EVIL}\n```\n\n<b>raw</b> {EVIL}"),
        concepts=["evil"],
        sources=[{"label": EVIL, "url": f"https://example.org/{EVIL}"}],
    )
    cards = index(evil)
    cards.concepts = {"evil": {
        "term": EVIL, "aliases": ["evil", EVIL], "summary": EVIL, "formula": EVIL, "transformer_lens": EVIL,
        "see_also": [], "links": [{"label": EVIL, "url": EVIL}], "body": EVIL,
    }}  # fmt: skip
    return cards


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    for module in (list, show, explain):
        monkeypatch.setattr(module, "load", lambda folders=(), cache=False: hostile())

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run([*arguments])
        return code, *capsys.readouterr()

    return run


PLAIN = [
    ("list",),
    ("list", "--ids"),
    ("show", "9.1"),
    ("show", "9.1", "--plain"),
    ("explain",),
    ("explain", "evil"),
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_no_control_character_of_a_card_is_printed(arguments: tuple[str, ...], call: Call) -> None:
    code, out, err = call(*arguments)
    assert (code, err if code else "") == (0, "")
    assert not FORBIDDEN & set(out + err)
    assert "loud" in out or "--ids" in arguments


@pytest.mark.parametrize("arguments", [("list", "--json"), ("show", "9.1", "--json"), ("explain", "--json")])
def test_json_is_one_value_in_ascii_and_loses_nothing(arguments: tuple[str, ...], call: Call) -> None:
    code, out, _ = call(*arguments)
    assert (code, err if code else "") == (0, "")
    assert not (FORBIDDEN - {"\x7f"}) & set(out)
    assert out.isascii()
    value = json.loads(out)
    texts = {"list": lambda: value[0]["title"], "show": lambda: value["title"]}
    assert texts.get(arguments[0], lambda: value["evil"]["term"])() == EVIL


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_only_our_own_escapes(
    no_color: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (("show", "9.1"), ("list",)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        assert cli.run([*arguments]) == 0
        out = terminal.getvalue()
        assert "\x1b[2J" not in out  # clears the screen
        assert "\x1b]" not in out  # titles and hyperlinks
        assert "\x07" not in out
        assert "\x9b" not in out
        assert "\u202e" not in out
        assert "loud" in out
        assert "[/]" in out  # rich's markup is text
        assert "/etc" in out


def test_an_error_that_quotes_a_name_is_clean_too(call: Call) -> None:
    for arguments in (("show", EVIL), ("explain", EVIL * 2), ("list", "--tag", "x" + EVIL)):
        code, out, err = call(*arguments)
        assert code == 1
        assert out == ""
        assert not FORBIDDEN & set(err)


def test_wide_text_stays_inside_the_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from mihack.terminal import width_of

    wide: Any = index(card(title="大規模言語モデルの注意ヘッドを理解するための最初の一歩 " * 3))
    monkeypatch.setattr(list, "load", lambda folders=(), cache=False: wide)
    for columns in (40, 60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        _, out, _ = call("list")
        assert max(map(width_of, out.splitlines())) <= columns
