"""`mihack stats`: the catalogue in numbers."""

from __future__ import annotations

import json

import click

from mihack.catalog.index import load
from mihack.catalog.query import COMPUTE, STATUS, letters
from mihack.commands.list import event_line
from mihack.commands.options import catalog_option
from mihack.terminal import columns, one_line, rows, strong, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mihack.catalog.index import Index

WIDTHS = (8, 3, 3, 3, 3)


@click.command(
    "stats", epilog="Example: mihack stats --json", short_help="Count problems, by area, rating and status."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_option
def stats_command(as_json: bool, catalog: tuple[str, ...]) -> None:
    """Count the problems by area, difficulty, status and machine, and the works, terms and resources."""
    index = load(catalog, cache=True)
    numbers = count(index)
    click.echo(json.dumps(numbers, indent=2) if as_json else page(numbers))


def count(index: Index) -> dict[str, Any]:
    """The numbers; a problem rated A-C counts under A, B and C."""
    items = list(index.problems.values())
    return {
        "event": index.event,
        "problems": len(items),
        "hidden": len(index.hidden),
        "areas": {
            area["title"]: {
                "problems": sum(item["area"] == slug for item in items),
                **{
                    letter: sum(
                        item["area"] == slug and letter in letters(item["difficulty"]) for item in items
                    )
                    for letter in "ABCD"
                },
            }
            for slug, area in index.areas.items()
        },
        "status": {status: sum(item["status"] == status for item in items) for status in STATUS},
        "compute": {name: sum(item["compute"] == name for item in items) for name in COMPUTE},
        "experiments": {
            fit: sum((item["starter"] or {"fit": "none"})["fit"] == fit for item in items)
            for fit in ("exact", "near", "none")
        },
        "concepts": len(index.concepts),
        "resources": len(index.resources),
        "works": len(index.works),
    }


def page(numbers: dict[str, Any]) -> str:
    """The numbers as text that fits the terminal."""
    header, *table = rows(
        [("problems", *(f"{key:>3}" for key in "ABCD"), "area"), *map(_row, numbers["areas"].items())], WIDTHS
    )
    blocks = ["\n".join([strong(header), *table]), "A range such as A-C counts under each of its letters."]
    for name in ("status", "compute", "experiments"):
        shown = ", ".join(f"{key} {value}" for key, value in numbers[name].items())
        blocks.append(f"{name}: {shown}")
    last = "{problems} problems, {works} works, {concepts} terms, {resources} resources"
    if numbers["hidden"]:
        last += "; {hidden} problems are hidden"
    event = [event_line(numbers["event"]), ""] if numbers["event"] else []
    blocks = [blocks[0], *(wrap(block, columns()) for block in (*blocks[1:], last.format(**numbers)))]
    return "\n".join([*event, *blocks])


def _row(area: tuple[str, dict[str, int]]) -> tuple[str, ...]:
    title, row = area
    return (f"{row['problems']:>8}", *(f"{row[letter]:>3}" for letter in "ABCD"), one_line(title))
