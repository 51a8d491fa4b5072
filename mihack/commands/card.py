"""`mihack card`: write a card to fill in, and set up an editor for cards."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mihack import completion
from mihack.errors import MihackError
from mihack.terminal import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mihack.catalog.index import Index

KINDS = ("problem", "area", "concept", "overlay")
FOLDER = "my-catalogue"


@click.group(
    "card",
    epilog='Example: mihack card new --title "Sort dates" --area algorithmic',
    short_help="Write a card of your own, or set up your editor for it.",
)
def card_command() -> None:
    """Write a card of your own, or set up your editor for it."""


@card_command.command(
    "new",
    epilog='Example: mihack card new --title "Sort dates" --area algorithmic',
    short_help="Write a card to fill in.",
)
@click.argument("key", metavar="[ID]", required=False)
@click.option("--kind", type=click.Choice(KINDS), default="problem", help="What to write. Default: problem.")
@click.option("--title", default="", help="Its title, or the concept's term. Asked for on a terminal.")
@click.option("--area", default="", shell_complete=completion.areas, help="A problem's area, or its start.")
@click.option(
    "--in",
    "folder",
    metavar="DIR",
    default=FOLDER,
    type=click.Path(file_okay=False, path_type=Path),
    help=f"The catalogue folder; made if it is not there. Default: {FOLDER}.",
)
def new_command(key: str | None, kind: str, title: str, area: str, folder: Path) -> None:
    """Write a card to fill in: every field explained, TODO where you must write.

    ID is a problem's id (default: the next free X-1, X-2 ...), or an area's or concept's slug
    (default: from its title). `mihack check DIR` then names what is still TODO.
    """
    # pydantic is for this command alone
    import shlex
    from datetime import date

    from mihack.catalog.blank import file_for, next_id, slug_of, text_for, write_new
    from mihack.catalog.index import load_below

    if kind != "overlay":
        title = title.strip() or click.prompt("Title", err=True) if _asks() else title.strip()
        if not title:
            raise click.UsageError("which title? mihack card new --title TEXT")
    if kind == "problem":
        index = load_below(folder)
        area = _area(index, folder, area)
        key = key or next_id([*index.problems, *index.hidden, *_ids(folder)])
    key = key or slug_of(title)
    path = folder / file_for(kind, key, title, area)
    write_new(path, text_for(kind, key, title, area, date.today().isoformat()))
    click.echo(str(path))
    say(f"Fill it in; `mihack check {shlex.quote(str(folder))}` names what is still TODO.")


@card_command.command(
    "editor",
    epilog="Example: mihack card editor my-catalogue",
    short_help="Set up VS Code for a catalogue folder.",
)
@click.argument("folder", metavar="[DIR]", default=FOLDER, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--workspace",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that you open in the editor. Default: the catalogue folder.",
)
def editor_command(folder: Path, workspace: Path | None) -> None:
    """Write the settings with which VS Code completes the fields of the catalogue in DIR.

    YAML files get their JSON Schema (with the YAML extension), cards get a snippet per field, and
    `mihack check` becomes the build task. Files that are there already stay as they are.
    """
    from mihack.catalog.blank import write_new
    from mihack.catalog.editor import files
    from mihack.catalog.index import load_below

    if not folder.is_dir():
        raise MihackError(f"There is no catalogue folder {folder}.", hint="Make one: mihack card new")
    kept = []
    areas = list(_areas(load_below(folder), folder))
    for path, text in files(folder, workspace or folder, areas).items():
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            kept.append(path)
        elif not path.exists():
            write_new(path, text)
            click.echo(str(path))
    for path in kept:
        say(f"{path} is there and stays as it is; delete it to have it written anew.")


def _asks() -> bool:
    import sys

    return sys.stdin.isatty()


def _areas(index: Index, folder: Path) -> dict[str, str]:
    """Slug -> title: of the areas below, and of the folder's own, whose slug will do."""
    own = sorted((folder / "areas").glob("*.md"))
    below = {slug: area["title"] for slug, area in index.areas.items()}
    return below | {path.stem: path.stem for path in own}


def _area(index: Index, folder: Path, wanted: str) -> str:
    """The one area that begins so: of the folder itself, or of what lies below it."""
    from mihack.catalog.index import fold, unknown

    titles = _areas(index, folder)
    text = fold(wanted)
    found = [
        slug for slug, title in titles.items() if fold(slug).startswith(text) or fold(title).startswith(text)
    ]
    exact = [slug for slug in found if slug == wanted]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not wanted:
        raise click.UsageError(f"which area? --area, one of: {', '.join(titles)}")
    if found:
        raise MihackError(f"--area {wanted!r} fits {' and '.join(found)}.", hint="Give more of its name.")
    raise unknown("area", wanted, titles)


def _ids(folder: Path) -> list[str]:
    """The ids that the names of the folder's files say: enough to find a free one."""
    import re

    found = [
        re.match(r"[A-Za-z]+-\d+", name) for _, _, names in os.walk(folder / "problems") for name in names
    ]
    return [match[0] for match in found if match]
