"""`mihack check`: name every fault of a catalogue folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mihack.terminal import say


@click.command(
    "check",
    epilog="Example: mihack check my-catalogue",
    short_help="Name every fault of a catalogue folder.",
)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of faults.")
@click.option(
    "--catalog",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="A catalogue folder that will lie below it. Repeatable.",
)
def check_command(folder: str | None, as_json: bool, catalog: tuple[str, ...]) -> None:
    """Check the catalogue in DIR (default: the one that comes with mihack).

    Its cards may name what comes with mihack, and what the folders of MIHACK_CATALOG and --catalog
    have that come before DIR.
    Prints every fault as FILE:LINE: FIELD: what is wrong and what would be right. Exits with 1 if
    there is a fault, with 0 if there is none.
    """
    # pydantic and the parsers are for this command alone
    from dataclasses import asdict, replace

    from mihack.catalog.check import check_folder, nearby, summary
    from mihack.catalog.index import load_below
    from mihack.catalog.layers import reading
    from mihack.shipped import catalog_dir

    root = Path(folder) if folder else catalog_dir()
    with reading(f"Checking {nearby(str(root))}") as progress:
        checked = check_folder(root, load_below(root, catalog), progress)
    faults = [replace(fault, file=nearby(fault.file)) for fault in checked.faults]
    if as_json:
        click.echo(json.dumps([asdict(fault) for fault in faults], indent=2))
    else:
        for fault in faults:
            click.echo(str(fault))
    say(summary(checked))
    sys.exit(1 if faults else 0)
