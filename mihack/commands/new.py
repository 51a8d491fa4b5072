"""`mihack new`: a research repo for a problem, whole or not at all."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mihack import completion
from mihack.commands.options import catalog_option
from mihack.errors import MihackError
from mihack.terminal import columns, flow, one_line, rows, say, strong

if TYPE_CHECKING:
    from mihack.catalog.index import Index
    from mihack.scaffold.plan import Answers


@click.command(
    "new",
    epilog="Example: mihack new 3.3 my-repo --set p=97",
    short_help="Make a research repo for a problem.",
)
@click.argument("problem_id", metavar="[ID]", required=False, shell_complete=completion.problem_ids)
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a parameter of the experiment. Repeatable.",
)
@click.option("--name", default="", help="The project's name. Default: from the problem.")
@click.option("--author", default="", help="Who to name in LICENSE and pyproject.toml.")
@click.option("--github", default="", metavar="OWNER/REPO", help="Makes the Colab badge work.")
@click.option("--git/--no-git", default=False, help="Also run git init. Default: no.")
@click.option("--yes", is_flag=True, help="Ask nothing; take the defaults.")
@click.option("--dry-run", is_flag=True, help="Show what would be made; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
@catalog_option
def new_command(
    problem_id: str | None,
    path: Path | None,
    settings: tuple[str, ...],
    name: str,
    author: str,
    github: str,
    git: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    catalog: tuple[str, ...],
) -> None:
    """Make a research repo for problem ID in the new folder PATH.

    Run bare on a terminal, it asks which problem and where. PATH may be "." if it is empty or
    holds nothing but .git. Existing files are never replaced, and an error leaves nothing behind.
    """
    from mihack.catalog.index import load

    index = load(catalog)
    problem, asked = _problem(index, problem_id, ask=not yes)
    answers = _answers(name, author, github, settings)
    target = path or _place(problem, ask=asked and not dry_run)
    _refuse_odd_name(target)

    from mihack.scaffold.plan import plan
    from mihack.scaffold.write import refuse_taken, write

    if not dry_run:
        refuse_taken(target)  # before the work, so that the message comes at once
    files = plan(problem, answers, index)
    if not dry_run:
        for left in write(files, target):
            say(f"Removed {left}, left behind by a run that was killed.")
        if git:
            _git_init(target)
    if as_json:
        click.echo(json.dumps(_report(problem, target, files, dry_run), indent=2))
    else:
        click.echo(_tree(target, files) if dry_run else _map(problem, target, files))


def _problem(index: Index, problem_id: str | None, *, ask: bool) -> tuple[dict[str, Any], bool]:
    """The problem named, or asked for; and whether it was asked for."""
    from mihack.commands.show import find

    if problem_id is not None:
        problem, note = find(index, problem_id)
        if note:
            say(note)
        return problem, False
    if not ask or not sys.stdin.isatty():
        raise click.UsageError("which problem? mihack new ID [PATH]; `mihack list` shows the ids")

    def known(text: str) -> dict[str, Any]:
        try:
            return find(index, text)[0]
        except MihackError as error:
            raise click.UsageError(f"{error.message} {error.hint}") from None

    question = "Which problem? (an id such as 3.3; `mihack list` shows all)"
    return click.prompt(question, value_proc=known, err=True), True


def _place(problem: dict[str, Any], *, ask: bool) -> Path:
    from mihack.scaffold.plan import default_folder

    default = default_folder(problem)
    if not ask:
        return Path(default)

    def free(text: str) -> Path:
        from mihack.scaffold.write import refuse_taken

        try:
            _refuse_odd_name(Path(text))
            refuse_taken(Path(text))
        except MihackError as error:
            raise click.UsageError(f"{error.message} {error.hint}") from None
        return Path(text)

    place: Path = click.prompt("Where?", default=default, value_proc=free, err=True)
    return place


def _answers(name: str, author: str, github: str, settings: tuple[str, ...]) -> Answers:
    import re

    from mihack.scaffold.plan import Answers

    if github and not re.fullmatch(r"[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}", github):
        raise MihackError(f"--github {github!r} is not OWNER/REPO", hint="Example: ada/grokking")
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise MihackError(f"--set {setting!r} has no =", hint="Example: --set p=97")
        pairs[key.strip()] = value.strip()
    return Answers(name=name, author=author, github=github, settings=pairs)


def _refuse_odd_name(target: Path) -> None:
    """Refuse a folder name that some system cannot hold; a team shares its repo."""
    from mihack.scaffold.paths import name_fault

    if target.name not in {"", ".", ".."} and name_fault(target.name):
        raise MihackError(name_fault(target.name), hint="Name another place.")


def _git_init(target: Path) -> None:
    """``git init``, unless the repo lies inside another one. Its failure spoils nothing."""
    import subprocess

    git = ["git", "-C", str(target)]
    try:
        inside = subprocess.run([*git, "rev-parse", "--git-dir"], capture_output=True)
        if inside.returncode == 0:
            say("Already inside a git repository: no git init.")
            return
        subprocess.run([*git, "init", "--quiet"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"The repo is there, but git init failed: {error}")


def _report(problem: dict[str, Any], target: Path, files: dict[str, bytes], dry_run: bool) -> dict[str, Any]:
    import hashlib

    listed = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    return {
        "problem": problem["id"],
        "target": str(target),
        "written": not dry_run,
        "run": ["python", "experiment.py"],
        "files": listed,
    }


def _map(problem: dict[str, Any], target: Path, files: dict[str, bytes]) -> str:
    """What is where, and the next command."""
    from mihack.scaffold.plan import purposes

    title = f"{target}: {one_line(problem['id'])} {one_line(problem['title'])}"
    lines = [strong(flow(title, columns())), ""]
    lines += rows([(f"  {name}", purpose) for name, purpose in purposes(files)], [17])
    go = [] if target.resolve() == Path.cwd() else [f"  cd {shlex.quote(str(target))}"]
    run = ["  uv run experiment.py        # or: pip install -e . && python experiment.py"]
    if len(run[0]) > columns():
        run = ["  uv run experiment.py", "or:", "  pip install -e . && python experiment.py"]
    return "\n".join([*lines, "", "Next:", *go, *run])


def _tree(target: Path, files: dict[str, bytes]) -> str:
    """Every file with its size and, where there is one, its purpose."""
    from mihack.scaffold.plan import PURPOSES

    table, told = [], set()
    for path, content in files.items():
        part = path if path in PURPOSES else path.split("/")[0] + "/"
        purpose = "" if part in told else PURPOSES.get(part, "")  # a folder's once
        told.add(part)
        table.append((f"  {path}", f"{len(content):>8} B", purpose))
    lines = rows(table, [max(len(row[0]) for row in table), 10])
    total = f"  {len(files)} files, {sum(map(len, files.values()))} B"
    return "\n".join([strong(f"{target}/ (nothing was written)"), *lines, total])
