"""Whatever goes wrong: one place, a message that says what to do, an exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from mihack import cli
from mihack.commands import list as list_module
from mihack.errors import MihackError


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(list_module, "load", fail)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MihackError("It is so.", hint="Do this."), 1, "Error: It is so.\nDo this.\n"),
        (MihackError("It is so."), 1, "Error: It is so.\n"),
        (click.UsageError("not like this"), 2, "not like this"),
        (click.ClickException("cannot"), 1, "Error: cannot\n"),
        (click.Abort(), 1, "Stopped.\n"),
        (KeyboardInterrupt(), 1, "Stopped.\n"),
        (PermissionError(13, "Permission denied", "/a\x1b[2J"), 1, "Error: Permission denied (/a [2J)\n"),
        (ZeroDivisionError("division\nby zero"), 1, "ZeroDivisionError: division by zero\n"),
        (RecursionError(), 1, "--debug"),
    ],
)
def test_each_error_has_its_code_and_words(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # long messages are wrapped by words
    fail_with(error, monkeypatch)
    assert cli.run(["list"]) == code
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err
    assert out == ""


def test_debug_raises_whatever_it_is_and_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError(), monkeypatch)
    for arguments in (["--debug", "list"], ["list", "--debug"]):
        with pytest.raises(ZeroDivisionError):
            cli.run(arguments)


def mihack(*arguments: str, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, at its place in a line of shell."""
    line = shell.format(" ".join([f"'{sys.executable}' -m mihack", *arguments]))
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["shwo", "3.1"], "Did you mean show?"),
        (["list", "--dificulty", "A"], "--difficulty"),
        (["show", "3.99"], "Did you mean 3.9"),
        (["list", "--area", "algoritmic-problems"], "Did you mean algorithmic-problems?"),
        (["list", "--compute", "laptp"], "Did you mean laptop?"),
        (["list", "--starter", "toylm"], "Did you mean toy-lm?"),
        (["explain", "inducton", "head"], "Did you mean induction head"),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_the_right_word(arguments: list[str], suggestion: str) -> None:
    done = mihack(*arguments)
    assert done.returncode in (1, 2)
    assert suggestion in done.stderr
    assert done.stdout == ""


def test_two_is_for_usage_and_one_for_what_can_be_fixed() -> None:
    assert [mihack(*words).returncode for words in (["nope"], ["show"], ["list", "--hours", "x"])] == [2] * 3
    assert [mihack(*words).returncode for words in (["show", "99.9"], ["list", "--tag", "nope"])] == [1] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["list", "show 3.1", "explain", "--version", "doctor --offline"])
def test_a_full_disk(command: str) -> None:
    done = mihack(command, shell="{} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device\n"


@pytest.mark.parametrize("command", ["list --json", "show 3.1", "explain", "schema"])
def test_a_reader_that_has_gone(command: str) -> None:
    done = mihack(command, shell="{} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout in {"0\n", "1\n"}
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["list", "show 3.1", "--help", "doctor --offline"])
def test_closed_streams(command: str) -> None:
    done = mihack(command, shell="{} >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_encoding_without_the_letters() -> None:
    done = mihack("explain", PYTHONIOENCODING="latin-1", COLUMNS="60")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?\n" in done.stdout  # where an ellipsis would be


def test_ctrl_c_while_modules_load(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    done = mihack("list", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_python_dash_m_and_the_script_are_one() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'mihack = "mihack.__main__:main"' in text
