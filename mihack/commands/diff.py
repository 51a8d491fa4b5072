"""`mihack diff`: what did we change since mihack made this repo?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mihack.commands.options import catalog_option
from mihack.commands.status import repo_option
from mihack.terminal import clean, coloured, plain, rows, say, strong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mihack.scaffold.changes import Change, Template
    from mihack.scaffold.generated_repo import GeneratedRepo

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command(
    "diff",
    epilog="Example: mihack diff experiment.py",
    short_help="Show what you changed in a repo since mihack made it.",
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--stat", is_flag=True, help="Only the files, with how many lines came and went.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: files, states and counts of lines.")
@repo_option
@catalog_option
def diff_command(
    files: tuple[Path, ...], stat: bool, as_json: bool, place: Path | None, catalog: tuple[str, ...]
) -> None:
    """Show the repo's files against those that `mihack new` made, as a unified diff.

    FILES, or folders, limit it. Of a notebook the cells are compared, not their outputs; results and
    caches are left out.
    """
    from mihack.catalog.index import load
    from mihack.scaffold.changes import changes, template, unified
    from mihack.scaffold.generated_repo import find

    repo = find(place)
    made = template(repo, load(catalog))
    found = [change for change in changes(repo) if _wanted(change.path, repo, files)]
    diffs = [(change, unified(repo, made, change)) for change in found]
    for note in _notes(repo, made, found):
        say(note)
    if as_json:
        click.echo(json.dumps([_entry(*pair) for pair in diffs], indent=2))
    elif stat:
        table = [(_count(lines), change.state, clean(change.path)) for change, lines in diffs]
        click.echo("\n".join(rows(table, (12, 7))) if table else "", nl=bool(table))
    else:
        for change, lines in diffs:
            _print(change, lines)
    if not found:
        say("Nothing has changed since it was made.")


def _wanted(path: str, repo: GeneratedRepo, files: tuple[Path, ...]) -> bool:
    here = repo.root / path
    places = [file.absolute().resolve() for file in files]
    return not places or any(place == here or place in here.parents for place in places)


def _notes(repo: GeneratedRepo, made: Template, found: list[Change]) -> list[str]:
    """What a reader must know when this mihack would not make the same files."""
    from mihack import __version__

    moved = [change.path for change in found if change.path in made.moved_on]
    if not moved:
        return []
    why = "with another catalogue or mihack than this one"
    if repo.mihack != __version__:
        why = f"by mihack {repo.mihack or '(unknown)'}, and this is {__version__}"
    return [
        f"This repo was made {why}, which would make {', '.join(moved)} otherwise: "
        "there the diff holds its changes too."
    ]


def _count(lines: list[str] | None) -> str:
    from mihack.scaffold.changes import counted

    if lines is None:
        return "not text"
    added, removed = counted(lines)
    return f"+{added} -{removed}" if lines else "outputs only"


def _entry(change: Change, lines: list[str] | None) -> dict[str, str | int | None]:
    from mihack.scaffold.changes import counted

    added, removed = counted(lines) if lines is not None else (None, None)
    return {"path": change.path, "state": change.state, "added": added, "removed": removed}


def _print(change: Change, lines: list[str] | None) -> None:
    """The diff: to a file as it is, so that it can be applied; on a terminal harmless and coloured."""
    if not lines:
        say(f"{clean(change.path)}: {change.state}, {_count(lines)}")
        return
    if not sys.stdout.isatty() and not plain():
        click.echo("\n".join(lines), color=True)  # or click would take a file's own escapes out
        return
    for number, line in enumerate(lines):
        shown = clean(line, keep="\t")
        if not coloured():
            click.echo(shown)
        elif number < 2:
            click.echo(strong(shown))
        else:
            colour = COLOURS.get(line[:1])
            click.echo(click.style(shown, fg=colour) if colour else shown)
