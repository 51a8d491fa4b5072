"""docs/commands.md names every command and option, and none that does not exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mihack.cli import COMMANDS, group

PAGE = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
TOP, *REST = re.split(r"^## mihack (.+)$", PAGE, flags=re.M)
SECTIONS = dict(zip(REST[::2], REST[1::2], strict=True))


def command(name: str) -> click.Command:
    found: click.Command | None = group
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    return found


def runnable() -> list[str]:
    """Every command that does something by itself, in the order of help: `card new`, not `card`."""
    names = []
    for name in COMMANDS:
        found = command(name)
        inner = list(found.commands) if isinstance(found, click.Group) else []
        names += [f"{name} {word}" for word in inner] or [name]
    return names


NAMES = runnable()


def words(parameter: click.Parameter) -> set[str]:
    """What a user types or reads for a parameter: its flags, or an argument's name in capitals."""
    if isinstance(parameter, click.Argument):
        return {(parameter.metavar or parameter.name or "").strip("[].").upper()}
    return {*parameter.opts, *parameter.secondary_opts}


def documented(text: str) -> set[str]:
    """The words in code in the first column of an option table (not that of the variables)."""
    table = text.split("| option |", 1)[1].split("\n\n", 1)[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def examples(text: str) -> list[list[str]]:
    """Each indented line that runs mihack, as words; comments after two spaces and pipes are cut."""
    lines = re.findall(r"^ {4}(mihack .*)$", text, flags=re.M)
    return [shlex.split(re.split(r" {2,}| [|>] | >> ", line)[0])[1:] for line in lines]


def test_every_command_has_its_section_in_the_order_of_help() -> None:
    assert list(SECTIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_documented_and_exists(name: str) -> None:
    exist = set().union(*(words(parameter) for parameter in command(name).params))
    assert documented(SECTIONS[name]) == exist


def test_the_options_of_mihack_itself() -> None:
    exist = set().union(*(words(parameter) for parameter in group.params), {"-h", "--help"})
    assert documented(TOP) == exist


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    words_of_name = name.split()
    lines = [line for line in examples(SECTIONS[name]) if line[: len(words_of_name)] == words_of_name]
    if name == "completion":
        lines.append(["completion", "bash"])  # its first example stands inside eval
    assert lines
    for line in lines:
        # parsed, not run; the folder of an example need not exist
        gone = {"folder", "workspace"} if name in {"check", "card editor"} else set()
        parameters = [parameter for parameter in command(name).params if parameter.name not in gone]
        rest = line[len(words_of_name) :]
        kept = [word for word in rest if not gone or word.startswith("--")]
        kept = [word for word in kept if word != "--workspace"]
        click.Command(name, params=parameters).make_context(name, kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_help_parses(name: str) -> None:
    epilog = command(name).epilog or ""
    assert epilog.startswith("Example: ")
    if name not in {"completion", "check", "schema"}:
        (line,) = examples("    " + epilog.removeprefix("Example: "))
        command(name).make_context(name, line[len(name.split()) :])


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_does(name: str) -> None:
    options = [parameter for parameter in command(name).params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_the_line_in_the_list_of_commands_is_the_commands_own() -> None:
    assert {name: command(name).get_short_help_str(limit=200) for name in COMMANDS} == COMMANDS


def test_the_variables_are_those_that_the_code_reads() -> None:
    table = TOP.split("| variable |", 1)[1]
    named = set(re.findall(r"^\| `([A-Z_]+)`", table, flags=re.M))
    package = Path(__file__).parent.parent / "mihack"
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
        # the device check and the experiments' own code read the variables of torch and the hub
        if path.name != "doctor.py" and "lab" not in path.parts
    )
    read = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", source))
    read |= {name for name in ("MIHACK_CATALOG",) if f'"{name}"' in source}
    # set by the terminal and by completion scripts, not by people
    assert named == read - {"TERM", "COMP_WORDS", "COMP_CWORD", "_MIHACK_COMPLETE"}
