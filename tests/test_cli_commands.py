"""The commands as a user meets them: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mihack.catalog.index import load_shipped
from mihack.cli import COMMANDS
from mihack.commands.list import STATUS
from mihack.terminal import clean, fit, width_of, wrap


def mihack(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mihack", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=60,
    )


class TestList:
    def test_a_matches_every_range_that_includes_a(self) -> None:
        items = json.loads(mihack("list", "--difficulty", "A", "--json").stdout)
        letters = {item["difficulty"] for item in items}
        assert {"A", "A-B", "A-C"} <= letters
        assert all(letter.startswith("A") for letter in letters)

    def test_both_areas_are_complete(self) -> None:
        ids = mihack("list", "--ids").stdout.split()
        assert [number for number in ids if number.startswith("1.")] == [f"1.{n}" for n in range(1, 24)]
        assert [number for number in ids if number.startswith("3.")] == [f"3.{n}" for n in range(1, 34)]

    def test_each_area_stands_in_one_place(self) -> None:
        titles = {area["title"] for area in load_shipped().areas.values()}
        headings = [line for line in mihack("list").stdout.split("\n") if line in titles]
        assert headings
        assert len(headings) == len(set(headings))

    def test_a_long_id_is_shown_whole(self, tmp_path: Path) -> None:
        new = mihack("card", "new", "Weekend-1234", "--title", "T", "--area", "super", "--in", str(tmp_path))
        (card,) = tmp_path.rglob("*.md")
        text = card.read_text("utf-8").replace("TODO its address", "https://example.org")
        card.write_text(re.sub(r'TODO[^\n"]*', "Text.", text), "utf-8")
        assert new.returncode == 0
        lines = mihack("list", "--catalog", str(tmp_path), COLUMNS="60").stdout.split("\n")
        assert any(line.startswith("Weekend-1234  B") for line in lines)
        assert max(map(len, lines)) <= 60

    def test_filters_narrow_together(self) -> None:
        both = json.loads(mihack("list", "--area", "algorithmic", "--hours", "12", "--json").stdout)
        assert both
        assert all(item["area"] == "algorithmic-problems" and item["hours"][1] <= 12 for item in both)

    def test_words_find_by_text(self) -> None:
        assert {"3.1", "3.2"} <= set(mihack("list", "sort", "lists", "--ids").stdout.split())

    def test_nothing_found_says_so_and_is_no_error(self) -> None:
        done = mihack("list", "zzzzqqq")
        assert done.returncode == 0
        assert "drop one" in done.stderr

    def test_a_wrong_value_names_the_right_ones(self) -> None:
        done = mihack("list", "--tag", "sortin")
        assert done.returncode == 1
        assert "sorting" in done.stderr

    def test_the_table_fits_80_columns(self) -> None:
        lines = mihack("list", COLUMNS="80").stdout.splitlines()
        assert max(map(width_of, lines)) <= 80

    def test_and_60_columns(self) -> None:
        lines = mihack("list", COLUMNS="60").stdout.splitlines()
        assert max(map(width_of, lines)) <= 60

    def test_every_long_status_has_a_short_form(self) -> None:
        assert all(len(short) <= 7 for short in STATUS.values())

    def test_a_reader_that_goes_away_gets_no_traceback(self) -> None:
        command = f"{sys.executable} -m mihack list --json | head -n 1"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.stdout == "[\n"
        assert "Traceback" not in done.stderr


class TestShow:
    def test_shows_every_section_and_the_command(self) -> None:
        text = mihack("show", "3.1").stdout
        for heading in ("Problem", "Why it matters", "First steps", "Going further", "Prior work"):
            assert f"## {heading}" in text
        assert "mihack new 3.1" in text
        assert "reviewed 2026" in text

    def test_an_unknown_id_suggests_close_ones(self) -> None:
        done = mihack("show", "3.99")
        assert done.returncode == 1
        assert "Did you mean" in done.stderr
        assert done.stdout == ""

    def test_json_is_the_whole_card(self) -> None:
        card = json.loads(mihack("show", "1.18", "--json").stdout)
        assert card["id"] == "1.18"
        assert card["sections"]["first_steps"]

    def test_a_terminal_gets_no_escape_from_a_card(self, tmp_path: Path) -> None:
        assert clean("a\x1b[31mb\x07\u202ec") == "a [31mb c"

    def test_on_a_terminal_colours_obey_no_color(self) -> None:
        assert b"\x1b[" in on_terminal("show", "3.1")
        assert b"\x1b[3" not in on_terminal("show", "3.1", NO_COLOR="1")


class TestExplain:
    def test_a_term_an_alias_and_the_problems_that_need_it(self) -> None:
        text = mihack("explain", "induction", "head").stdout
        assert "q - N + 1" in text
        assert "Problems that need it" in text

    def test_without_a_term_lists_the_glossary(self) -> None:
        assert len(mihack("explain").stdout.splitlines()) >= 80

    def test_close_terms_are_suggested(self) -> None:
        done = mihack("explain", "inductoin head")
        assert done.returncode == 1
        assert "induction head" in done.stderr


class TestErrors:
    def test_an_unknown_command_suggests_a_close_one(self) -> None:
        done = mihack("lits")
        assert done.returncode == 2
        assert "Did you mean list" in done.stderr

    def test_an_unknown_option_is_usage(self) -> None:
        assert mihack("list", "--difficult", "A").returncode == 2

    def test_a_broken_catalogue_names_file_and_line(self, tmp_path: Path) -> None:
        (tmp_path / "problems").mkdir()
        (tmp_path / "problems" / "X-1.md").write_text("---\nid: [\n---\n", encoding="utf-8")
        done = mihack("list", "--catalog", str(tmp_path))
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "X-1.md" in done.stderr

    def test_only_debug_shows_a_traceback(self, tmp_path: Path) -> None:
        plain, debug = mihack("show", "3.99"), mihack("show", "3.99", "--debug")
        assert "Traceback" not in plain.stderr
        assert "Traceback" in debug.stderr

    def test_no_arguments_is_help(self) -> None:
        for arguments in ((), ("--plain",), ("card",), ("site",)):
            done = mihack(*arguments)
            assert "Example: mihack" in done.stderr + done.stdout
            assert "Error" not in done.stderr


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_shows_an_example(self, command: str) -> None:
        done = mihack(command, "--help")
        assert done.returncode == 0
        assert "Example:" in done.stdout

    def test_version_is_the_package_version(self) -> None:
        root = Path(__file__).parent.parent
        declared = (root / "pyproject.toml").read_text(encoding="utf-8").split('version = "')[1].split('"')[0]
        assert mihack("--version").stdout.strip() == f"mihack {declared}"


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
    def test_each_shell_has_a_script(self, shell: str) -> None:
        script = mihack("completion", shell)
        assert "_MIHACK_COMPLETE" in script.stdout
        assert "To keep it" in script.stderr

    @pytest.mark.parametrize(
        ("words", "offered"),
        [("mihack show 3.1", "3.16"), ("mihack new 1.2", "1.20"), ("mihack explain indu", "induction-head")],
    )
    def test_ids_and_terms_are_offered(self, words: str, offered: str) -> None:
        done = mihack(_MIHACK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="2")
        assert f"plain,{offered}" in done.stdout.split()

    def test_bash_really_completes(self, tmp_path: Path) -> None:
        script = mihack("completion", "bash").stdout
        shim = tmp_path / "mihack"
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mihack "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
        code = (
            f"{script}\nCOMP_WORDS=(mihack show 3.3); COMP_CWORD=2\n"
            "_mihack_completion mihack 3.3 show\nprintf '%s\\n' \"${COMPREPLY[@]}\""
        )
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-c", code], capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        assert {"3.3", "3.30", "3.31", "3.32", "3.33"} == set(done.stdout.split())


class TestColumns:
    def test_wide_characters_take_two(self) -> None:
        assert width_of("日本") == 4
        assert fit("日本語", 5) == "日本…"
        assert width_of(fit("日本語", 4)) == 4

    def test_wrap_keeps_every_word(self) -> None:
        assert wrap("a bb ccc dddd", 6).split() == ["a", "bb", "ccc", "dddd"]

    @given(st.text("ab \n", max_size=80), st.integers(4, 30), st.integers(0, 3))
    def test_wrap_fills_lines_alike_in_every_script(self, text: str, columns: int, indent: int) -> None:
        """ASCII goes a quicker way; Greek, of the same width, the general one."""
        greek = str.maketrans("ab", "αβ")
        assert wrap(text, columns, " " * indent).translate(greek) == wrap(
            text.translate(greek), columns, " " * indent
        )


def on_terminal(*arguments: str, **environment: str) -> bytes:
    """What the command prints when its stdout is a terminal."""
    parent, child = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "mihack", *arguments], stdout=child, stderr=subprocess.DEVNULL, env=variables
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
    return output
