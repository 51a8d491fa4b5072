"""`mihack search`: problems and terms for a few words, the best match first."""

from __future__ import annotations

import json

import click

from mihack.catalog.index import load
from mihack.commands.list import table
from mihack.commands.options import catalog_option
from mihack.terminal import columns, one_line, say, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mihack.catalog.index import Index
    from mihack.catalog.search import Hit


@click.command(
    "search",
    epilog="Example: mihack search superposition with correlated features",
    short_help="Search cards and glossary, best match first.",
)
@click.argument("words", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1, 200), default=10, help="How many problems (default: 10).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ids with scores.")
@click.option("--ids", is_flag=True, help="Print ids only, one a line.")
@catalog_option
def search_command(
    words: tuple[str, ...], count: int, as_json: bool, ids: bool, catalog: tuple[str, ...]
) -> None:
    """Search all cards and the glossary for WORDS, in any order and any ending.

    Cards with all words come first; `mihack list WORDS` leaves the others out.
    """
    from mihack.catalog.search import search

    index = load(catalog, cache=True)
    problems, concepts = search(index, " ".join(words))
    if as_json:
        found = {
            "problems": [hit._asdict() for hit in problems[:count]],
            "concepts": [hit._asdict() for hit in concepts[:count]],
        }
        click.echo(json.dumps(found, indent=2))
    elif ids:
        click.echo("".join(f"{one_line(hit.key)}\n" for hit in problems[:count]), nl=False)
    else:
        click.echo(page(index, problems[:count], concepts[:3]))
        say(footer(len(problems), count))


def page(index: Index, problems: list[Hit], concepts: list[Hit]) -> str:
    """The problems as a table, and under it the terms that match."""
    lines = table(index, [index.problems[hit.key] for hit in problems]) if problems else []
    terms = [hit.title for hit in concepts]
    if terms:
        lines += ["", wrap("In the glossary (mihack explain): " + one_line(", ".join(terms)), columns())]
    return "\n".join(lines)


def footer(found: int, count: int) -> str:
    """What to do next."""
    if not found:
        return "No problem has any of these words. `mihack list` shows all of them."
    more = f" {found - count} more: --count {found}." if found > count else ""
    return f"\nRead one with `mihack show ID`.{more}"
