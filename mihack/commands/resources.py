"""`mihack resources`: what to read, watch and copy from, for a problem or in all."""

from __future__ import annotations

import json

import click

from mihack import completion
from mihack.catalog.index import load
from mihack.commands.options import catalog_option
from mihack.terminal import columns, one_line, say, strong, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("demo", "tutorial", "paper", "video", "tool", "reference", "puzzle")


@click.command(
    "resources",
    epilog="Example: mihack resources --for 3.16",
    short_help="List demos, tutorials, papers and tools.",
)
@click.option(
    "--for", "number", metavar="ID", shell_complete=completion.problem_ids, help="Only a problem's."
)
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_option
def resources_command(number: str | None, kind: str | None, as_json: bool, catalog: tuple[str, ...]) -> None:
    """List what to read, watch and copy from, each with what it is for and how long it takes."""
    index = load(catalog, cache=True)
    wanted = index.resources
    if number is not None:
        wanted = {key: wanted[key] for key in index.problem(number)["resources"] if key in wanted}
    found = {key: item for key, item in wanted.items() if kind in (None, item["kind"])}
    click.echo(json.dumps(found, indent=2) if as_json else "\n\n".join(map(entry, found.values())))
    if not found:
        say("Nothing there. `mihack resources` lists all.")


def entry(item: dict[str, Any]) -> str:
    """Title and facts, what it is for, its address, what to watch out for."""
    width = min(columns(), 100)
    minutes = f", about {item['minutes']} min (our estimate)" if item["minutes"] else ""
    code = "" if item["works_on_tl4"] == "not code" else f", on TransformerLens 4: {item['works_on_tl4']}"
    lines = [
        strong(wrap(one_line(f"{item['title']} ({item['kind']}{minutes}{code})"), width)),
        wrap(one_line(item["what_for"]), width, "    "),
        "    " + one_line(item["url"]),
    ]
    if item["note"]:
        lines.append(wrap(one_line(item["note"]), width, "    "))
    return "\n".join(lines)
