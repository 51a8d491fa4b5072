"""The terminal: every command at 60 columns, in colour and plain, piped and on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mihack import cli
from mihack.catalog import layers
from mihack.catalog.index import load_shipped
from mihack.commands.show import card, joined
from mihack.terminal import flow, rows, to_ascii, width_of

NARROW = 60
Call = Callable[..., tuple[int, str, str]]

# Every command that prints text, as people run it; `completion` and `schema` print code.
LINES = [
    ("list",),
    ("list", "--difficulty", "A", "sorting"),
    ("list", "zzzzqqq"),
    ("show", "3.1"),
    ("show", "NP002"),
    ("search", "superposition", "with", "correlated", "features"),
    ("suggest", "--hours", "16", "--interest", "grokking"),
    ("new", "3.16", "gone", "--dry-run"),
    ("new", "3.16", "made"),
    ("explain",),
    ("explain", "induction", "head"),
    ("resources",),
    ("stats",),
    ("check", "empty"),
    ("doctor", "--offline"),
    ("card", "new", "--title", "Sort dates", "--area", "algorithmic", "--in", "mine"),
    ("card", "editor", "empty"),
    ("site", "build", "out"),
]
MISTAKES = [
    ("lits",),
    ("show", "3.99"),
    ("show", "3.1", "--difficulty", "A"),
    ("list", "--area", "nowhere"),
    ("resources", "--kind", "nothing"),
    ("new", "3.16", "gone", "--set", "nonsense=1"),
    ("explain", "zzzz"),
    ("status",),
    ("diff",),
    ("submit",),
]
PRINTS_CODE = {"completion", "schema"}


def helps() -> list[tuple[str, ...]]:
    found = [("--help",)]
    for name in cli.COMMANDS:
        command = cli.group.get_command(click.Context(cli.group), name)
        found.append((name, "--help"))
        found += [(name, inner, "--help") for inner in getattr(command, "commands", ())]
    return found


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "empty" / "works.yaml").parent.mkdir()
    (tmp_path / "empty" / "works.yaml").write_text("{}\n", encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.run([*arguments])
        except SystemExit as stop:  # `check` says it so
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def too_long(text: str, room: int = NARROW) -> list[str]:
    """Lines beyond ``room`` that could have been broken: an address or a command cannot."""
    return [line for line in text.splitlines() if width_of(line) > room and not whole(line)]


def whole(line: str) -> bool:
    words = re.findall(r"`[^`]*`\S*|\S+", line)
    return len([word for word in words if word not in {"-", "*"}]) == 1 or line.startswith("    ")


class TestSixtyColumns:
    def test_every_command_is_among_the_lines(self) -> None:
        assert {line[0] for line in LINES + MISTAKES} | PRINTS_CODE >= set(cli.COMMANDS)

    @pytest.mark.parametrize("line", [*LINES, *MISTAKES, *helps()], ids=" ".join)
    def test_no_line_is_longer(
        self, line: tuple[str, ...], call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(NARROW))
        code, out, err = call(*line)
        assert code == (0 if line not in MISTAKES else code)
        assert (out + err).strip()
        assert too_long(out + err) == []

    @pytest.mark.parametrize("line", [("list",), ("show", "3.1"), ("stats",), ("show", "3.99")], ids=" ".join)
    def test_a_terminal_of_that_width_needs_no_variable(self, line: tuple[str, ...]) -> None:
        text = on_terminal(NARROW, *line)
        assert text.strip()
        assert too_long(re.sub(r"\x1b\[[0-9;]*m", "", text)) == []

    def test_a_table_fills_the_room_that_there_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        assert rows([("a", "word " * 20)], [3]) == ["a    " + ("word " * 20).strip()]
        monkeypatch.setenv("COLUMNS", "60")
        assert len(rows([("a", "word " * 20)], [3])[0].split("\n")) == 2

    def test_a_last_cell_without_room_goes_below(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        (long, below) = rows([("p" * 50, "what it is for, in words")], [50])
        assert (long.strip(), below.strip()) == ("p" * 50, "what it is for, in words")


class TestPlain:
    @pytest.mark.parametrize("line", [*LINES, *MISTAKES], ids=" ".join)
    def test_ascii_only_and_still_within_60_columns(
        self, line: tuple[str, ...], call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(NARROW))
        _, out, err = call(*line, "--plain")
        assert (out + err).isascii()
        assert too_long(out + err) == []

    @pytest.mark.parametrize("line", [("show", "3.1"), ("list",), ("explain", "ablation"), ("stats",)])
    def test_on_a_terminal_neither_colour_nor_boxes(self, line: tuple[str, ...]) -> None:
        assert "\x1b[" in on_terminal(80, *line)
        for text in (on_terminal(80, *line, "--plain"), on_terminal(80, *line, MIHACK_PLAIN="1")):
            assert text.isascii()
            assert "\x1b" not in text

    def test_nothing_is_cut_short(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        summary = to_ascii(load_shipped().concepts["induction-head"]["summary"])
        assert " ".join(summary.split()) not in " ".join(call("explain")[1].split())
        assert " ".join(summary.split()) in " ".join(call("explain", "--plain")[1].split())

    def test_it_may_stand_anywhere_but_behind_two_hyphens(self, call: Call) -> None:
        assert call("--plain", "explain", "ablation") == call("explain", "ablation", "--plain")
        assert call("search", "--", "--plain")[0] == 0

    def test_it_ends_with_its_line(self, call: Call) -> None:
        before = call("explain", "grokking")
        call("explain", "grokking", "--plain")
        assert call("explain", "grokking") == before

    def test_every_card_becomes_ascii(self) -> None:
        index = load_shipped()
        for number in index.problems:
            assert to_ascii(card(index, index.problem(number))).isascii()

    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            ("Schrödinger’s “θ” — 3 × 10⁻⁴ … ≤ ∞", 'Schrodinger\'s "theta" -- 3 x 10-4 ... <= inf'),
            ("Ω and Łódź, Straße", "Omega and Lodz, Strasse"),
            ("a\u202eb", "ab"),
            ("日本", "??"),
        ],
    )
    def test_what_becomes_of_a_letter(self, text: str, plain: str) -> None:
        assert to_ascii(text) == plain

    @given(st.text(max_size=60))
    def test_whatever_the_text(self, text: str) -> None:
        assert to_ascii(text).isascii()
        assert to_ascii(text.encode("ascii", "ignore").decode()) == text.encode("ascii", "ignore").decode()


class TestFlow:
    @given(st.text("ab `#-1.\n", max_size=120), st.integers(12, 40))
    def test_no_word_is_lost_or_broken(self, text: str, room: int) -> None:
        assert flow(text, room).split() == text.split()

    @given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1), st.integers(12, 40))
    def test_lines_of_short_words_fit(self, words: list[str], room: int) -> None:
        assert all(len(line) <= room for line in flow("- " + " ".join(words), room).split("\n"))

    def test_a_command_in_backticks_stays_on_one_line(self) -> None:
        text = flow("Read one with `mihack show ID`, start with `mihack new ID`.", 40)
        assert text.split("\n") == ["Read one with `mihack show ID`, start", "with `mihack new ID`."]

    def test_an_item_of_a_list_hangs(self) -> None:
        assert flow("1. one two three four", 12).split("\n") == ["1. one two", "   three", "   four"]

    def test_code_and_addresses_stay_whole(self) -> None:
        for text in ("    mihack new 3.1 some/folder/far/away", "https://example.org/a/long/one"):
            assert flow(text, 20) == text

    def test_paragraphs_are_joined_before_they_are_filled(self) -> None:
        text = "# T\na b\nc\n\n- one\n  two\n- three\n\n    code\n    code\n\n```\nx\ny\n```\n40 more\nlines"
        want = "# T\na b c\n\n- one two\n- three\n\n    code\n    code\n\n```\nx\ny\n```\n40 more lines"
        assert joined(text) == want

    def test_in_a_pipe_the_lines_of_a_card_stay_whole(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        index = load_shipped()
        assert call("show", "3.1")[1] == card(index, index.problem("3.1")) + "\n"

    def test_so_do_messages(self, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        assert max(map(len, call("list", "--area", "nowhere")[2].split("\n"))) > 100


class TestProgress:
    def shown(self, monkeypatch: pytest.MonkeyPatch, total: int, seconds: float) -> str:
        """What a terminal shows while ``total`` files take ``seconds``."""
        clock = iter(seconds * step / total for step in range(total + 2))
        monkeypatch.setattr(layers.time, "monotonic", lambda: next(clock, seconds))
        return on_a_fake_terminal(monkeypatch, total)

    def test_a_bar_with_its_total_once_it_takes_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = self.shown(monkeypatch, total=40, seconds=3)
        assert "Reading" in text
        assert "40/40" in text

    def test_none_for_what_is_over_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.shown(monkeypatch, total=40, seconds=0.5) == ""

    def test_plain_it_is_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIHACK_PLAIN", "1")
        text = self.shown(monkeypatch, total=2000, seconds=3)
        assert text.splitlines()[-1] == "Reading: 2000 of 2000 files"
        assert "\r" not in text

    def test_the_device_check_says_which_step_of_how_many(self) -> None:
        code = (
            "from mihack import doctor\n"
            "for name in ('nvidia', 'ask_hub', 'memory'): setattr(doctor, name, lambda: (None, None, None))\n"
            "doctor.RANGES = {'numpy': doctor.RANGES['numpy'], 'torch': doctor.RANGES['torch']}\n"
            "doctor.installed = lambda name: None\n"
            "doctor.memory = lambda: (None, None)\n"
            "doctor.probe(offline=True, tell=doctor.step_shown)\n"
            "doctor.step_shown(len(doctor.STEPS), '')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        shown = done.stderr.decode()
        assert re.findall(r"(\d) of 5", shown) == list("12345")
        assert shown.endswith(" \r")  # nothing of it is left on the line


def on_a_fake_terminal(monkeypatch: pytest.MonkeyPatch, total: int) -> str:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with layers.reading("Reading") as progress:
        for done in range(1, total + 1):
            progress(done, total)
    return screen.getvalue()


def on_terminal(width: int, *arguments: str, **environment: str) -> str:
    """Everything that the command prints on a terminal of ``width`` columns."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "mihack", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        env=kept | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment},
    )
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    process.wait(timeout=60)
    os.close(parent)
    return output.decode().replace("\r\n", "\n")
