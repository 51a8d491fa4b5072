"""Completion as the shells ask for it; the shells that are installed are really asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click.shell_completion
import pytest

from mihack import powershell
from mihack.cli import group

ZSH = """\
autoload -U compinit; compinit -u -D
eval "$(mihack completion zsh)"
compadd() { : }
_describe() { print -rl -- ${(P)3} }
words=(%s); CURRENT=$#words
_mihack_completion
"""
BASH = """\
eval "$(mihack completion bash)"
COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_mihack_completion mihack "${COMP_WORDS[-1]}" ""
printf '%%s\\n' "${COMPREPLY[@]}"
"""
FISH = """\
mihack completion fish | source
complete -C "%s"
"""
OFFERS = [
    ("mihack show 3.3", {"3.3", "3.30", "3.31", "3.32", "3.33"}),
    ("mihack list --area toy", {"toy-language-models", "toy-models-since-2023"}),
    ("mihack list --status part", {"partly"}),
    ("mihack list --compute free", {"free-gpu"}),
    ("mihack explain induction", {"induction-head"}),
    ("mihack expl", {"explain"}),
    ("mihack list --diff", {"--difficulty"}),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with ``mihack`` in front."""
    shim = tmp_path / "mihack"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mihack "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def ask(command: list[str], script: str, path: str) -> set[str]:
    environment = {**os.environ, "PATH": path, "HOME": path.split(":")[0]}
    done = subprocess.run(
        [*command, script], capture_output=True, text=True, encoding="utf-8", env=environment, timeout=60
    )
    return set(done.stdout.splitlines())


@pytest.mark.parametrize(("line", "offered"), OFFERS)
def test_bash(line: str, offered: set[str], path: str) -> None:
    assert ask(["bash", "--norc", "-c"], BASH % line, path) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_offers_ids_with_titles(path: str) -> None:
    offers = ask(["zsh", "-f", "-c"], ZSH % "mihack show 3.3", path)
    assert {offer.partition(":")[0] for offer in offers} == OFFERS[0][1]
    assert "3.30:A first project on Othello-GPT: change the board, watch the moves" in offers


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_ids_with_whole_titles(path: str) -> None:
    offers = ask(["fish", "-N", "-c"], FISH % "mihack show 3.3", path)
    assert {offer.partition("\t")[0] for offer in offers} == OFFERS[0][1]
    assert "3.30\tA first project on Othello-GPT: change the board; watch the moves" in offers


def protocol(shell: str, line: str, number: int) -> list[str]:
    """What mihack answers to a shell's script."""
    variables = {"_MIHACK_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(number)}
    done = subprocess.run(
        [sys.executable, "-m", "mihack"], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "number"), [("mihack show 3.3", 2), ("mihack show ", 2), ("mihack explain", 2)]
)
def test_powershell_by_its_protocol(line: str, number: int) -> None:
    text = "\n".join(protocol("powershell", line, number))
    assert ("induction-head" if "explain" in line else "3.33") in text


def test_powershell_without_clicks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shells = {k: v for k, v in click.shell_completion._available_shells.items() if k != "powershell"}
    monkeypatch.setattr(click.shell_completion, "_available_shells", shells)
    powershell.register()
    assert click.shell_completion.get_completion_class("powershell") is powershell.PowerShell
    shell = powershell.PowerShell(group, {}, "mihack", "_MIHACK_COMPLETE")
    assert "Register-ArgumentCompleter -Native -CommandName mihack" in shell.source()
    assert "$env:_MIHACK_COMPLETE = 'powershell_complete'" in shell.source()
    monkeypatch.setenv("COMP_WORDS", "mihack show 3.30")
    monkeypatch.setenv("COMP_CWORD", "2")
    title = "A first project on Othello-GPT: change the board, watch the moves"
    assert shell.complete() == f"plain\t3.30\t{title}"
    monkeypatch.setenv("COMP_CWORD", "3")
    assert shell.get_completion_args() == (["show", "3.30"], "")


def test_a_broken_catalogue_offers_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIHACK_CATALOG", str(tmp_path / "nowhere"))
    assert "".join(protocol("bash", "mihack show 3", 2)) == ""
