"""Start-up: what a command may import before it does its work."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each of these costs more than `mihack list` as a whole may cost (see benchmarks/startup.py).
HEAVY = {
    "asyncio", "cookiecutter", "dataclasses", "difflib", "importlib.metadata", "jinja2", "markdown_it",
    "matplotlib", "numpy", "pathlib", "pydantic", "requests", "rich", "torch", "transformer_lens", "yaml",
}  # fmt: skip


def imported(*arguments: str) -> set[str]:
    """Modules loaded by ``mihack ARGUMENTS``, without those of Python's own start and of click."""
    code = (
        "import sys, click, click.shell_completion; before = set(sys.modules)\n"
        "from mihack.cli import run\n"
        f"run({list(arguments)!r})\n"
        "print('LOADED', *sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("list",),
        ("list", "--difficulty", "A", "--ids"),
        ("list", "--json"),
        ("explain", "ablation"),
        ("show", "3.1", "--plain"),
    ],
)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported(*arguments) & HEAVY == set()


def test_version_and_help_import_no_command() -> None:
    for flag in ("--version", "--help"):
        assert not {name for name in imported(flag) if name.startswith("mihack.commands")}


def test_completion_imports_nothing_heavy() -> None:
    code = (
        "import os, sys\n"
        "os.environ |= {'_MIHACK_COMPLETE': 'bash_complete', 'COMP_CWORD': '2'}\n"
        "os.environ['COMP_WORDS'] = 'mihack show 3.'\n"
        "from mihack.cli import run\n"
        "try:\n    run([])\n"
        "except SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "3.16" in done.stdout
    heavy = {"cookiecutter", "jinja2", "markdown_it", "pydantic", "rich", "torch", "yaml"}
    assert not set(done.stderr.split()) & heavy


def test_new_needs_no_torch_and_no_pydantic(tmp_path: object) -> None:
    names = imported("new", "3.16", f"{tmp_path}/repo", "--dry-run")
    assert not names & {"torch", "transformer_lens", "pydantic", "yaml", "rich", "requests"}
    assert "jinja2" in names  # the check itself sees imports


# What click does not bring along, by command: JSON for the index, and shutil to lay out help.
LOCALE = {"_locale", "locale"}
JSON = {"_json", "json", "json.decoder", "json.encoder", "json.scanner"}
HELP = {"_bz2", "_compression", "_lzma", "bz2", "fnmatch", "lzma", "shutil", "textwrap", "zlib"}
HELP |= {"click._textwrap", "compression", "compression._common", "compression._common._streams"}
ALLOWED = {
    ("--version",): LOCALE,
    ("--help",): LOCALE | HELP,
    ("list",): LOCALE | JSON,
    ("list", "sorting", "--difficulty", "A"): LOCALE | JSON,
    ("show", "3.1", "--plain"): LOCALE | JSON | {"unicodedata"},
    ("explain", "ablation"): LOCALE | JSON | {"unicodedata"},
}


@pytest.mark.parametrize("arguments", ALLOWED)
def test_nothing_is_imported_that_is_not_on_the_list(arguments: tuple[str, ...]) -> None:
    extra = {name for name in imported(*arguments) - ALLOWED[arguments] if not name.startswith("mihack")}
    assert extra == set()
