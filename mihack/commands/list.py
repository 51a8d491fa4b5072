"""`mihack list`: what could we work on this weekend?"""

from __future__ import annotations

import json

import click

from mihack import completion
from mihack.catalog.index import load, natural
from mihack.catalog.query import CODING, COMPUTE, query
from mihack.catalog.query import STATUS as STATUSES
from mihack.commands.options import catalog_option
from mihack.terminal import clean, columns, fit, one_line, plain, rows, say, strong, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mihack.catalog.index import Index

# id (wider if one is longer), difficulty, status, hours: the title takes what is left
WIDTHS = (5, 4, 7, 7)
WIDEST_ID = 14
# easiest, shortest, first; a range goes by its easier end, then by its harder one
SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "number": lambda item: natural(item["id"]),
    "difficulty": lambda item: (item["difficulty"][0], item["difficulty"][-1]),
    "hours": lambda item: (item["hours"][0], item["hours"][1]),
    "title": lambda item: item["title"].casefold(),
}
# one word each, so that a row fits 80 columns
STATUS = {"partly answered": "partly", "largely answered": "largely"}


@click.command(
    "list",
    epilog="Example: mihack list --difficulty A --hours 16 sorting",
    short_help="List the problems, filtered.",
)
@click.argument("words", nargs=-1)
@click.option(
    "--difficulty",
    metavar="A-D",
    shell_complete=completion.words(*"ABCD"),
    help="A letter or range; A matches every range that includes A.",
)
@click.option("--area", shell_complete=completion.areas, help="An area, or the start of its name.")
@click.option(
    "--status",
    shell_complete=completion.words(*(status.split()[0] for status in STATUSES)),
    help="open, partly answered, largely answered or unknown; a start is enough.",
)
@click.option(
    "--compute",
    shell_complete=completion.words(*COMPUTE),
    help="At most this: laptop, free-gpu, gpu or cluster.",
)
@click.option(
    "--coding",
    shell_complete=completion.words(*CODING),
    help="At most this much programming: low, some or high.",
)
@click.option("--hours", type=float, help="At most this many hours to a first own result (our estimate).")
@click.option("--starter", shell_complete=completion.starters, help="A starter, or STARTER/EXPERIMENT.")
@click.option("--tag", "tags", multiple=True, shell_complete=completion.tags, help="A tag. Repeatable.")
@click.option("--sort", type=click.Choice(list(SORTS)), help="Sort by number, difficulty, hours or title.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all facts, without the texts.")
@click.option("--ids", is_flag=True, help="Print ids only, one a line.")
@catalog_option
def list_command(
    words: tuple[str, ...],
    sort: str | None,
    as_json: bool,
    ids: bool,
    catalog: tuple[str, ...],
    **filters: Any,
) -> None:
    """List the problems that meet every filter and contain all WORDS.

    Without WORDS they come in order of their numbers, with WORDS the best match first.
    """
    index = load(catalog, cache=True)
    found = query(index, text=" ".join(words) or None, **filters)
    if sort:
        found = sorted(found, key=SORTS[sort])  # stable: equals keep their order
    if as_json:
        facts = [
            {key: value for key, value in index.whole(item).items() if key != "sections"} for item in found
        ]
        click.echo(json.dumps(facts, indent=2))
    elif ids:
        click.echo("".join(f"{one_line(item['id'])}\n" for item in found), nl=False)
    else:
        event = [event_line(index.event), ""] if index.event else []
        click.echo("\n".join([*event, *table(index, found, grouped=not words and not sort)]))
    if not as_json and not ids:
        say(footer(len(found), len(index.problems), len(index.hidden)))


def table(index: Index, items: list[dict[str, Any]], *, grouped: bool = False) -> list[str]:
    """Lines of at most the terminal's width; under a heading per area if ``grouped``."""
    layout = Layout(items)
    lines = [strong(layout.header())]
    if not grouped:
        return lines + [layout.row(item) for item in items]
    areas = dict.fromkeys([*index.areas, *(item["area"] for item in items)])
    by_area: dict[str, list[str]] = {area: [] for area in areas}
    for item in items:
        by_area[item["area"]].append(layout.row(item))
    for area, rows_of_area in by_area.items():
        if rows_of_area:
            title = index.areas.get(area, {}).get("title", area)
            lines += ["", heading(one_line(title)), *rows_of_area]
    return lines


class Layout:
    """Columns for a table of problems: as wide as its longest id needs, and the terminal allows."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        longest = max((len(item["id"]) for item in items), default=0)
        widest = longest if plain() else WIDEST_ID  # plain text cuts nothing short
        self.widths = (min(max(WIDTHS[0], longest), max(widest, WIDTHS[0])), *WIDTHS[1:])
        self.start = sum(self.widths) + 2 * len(self.widths)
        self.indent = " " * self.start
        self.columns = columns()
        self.facts: dict[tuple[Any, ...], str] = {}  # the same few stand in thousands of rows

    def header(self) -> str:
        """The line over the columns."""
        return rows([("id", "diff", "status", "hours", "title")], self.widths)[0]

    def row(self, item: dict[str, Any]) -> str:
        """One problem: its facts in columns, its title filling as many lines as it needs."""
        number, title = one_line(item["id"]), one_line(item["title"])
        key = (item["difficulty"], item["status"], *item["hours"])
        facts = self.facts.get(key) or self.facts.setdefault(key, self._facts(*key))
        if len(number) > self.widths[0]:
            number = fit(number, self.widths[0])
        line = f"{number:<{self.widths[0]}}  {facts}"
        if len(title) <= self.columns - self.start and title.isascii():
            return line + title
        return line + wrap(title, self.columns, self.indent)[self.start :]

    def _facts(self, rating: str, status: str, low: float, high: float) -> str:
        cells = (rating, STATUS.get(status, status), f"{low:g}-{high:g} h")
        return "".join(fit(cell, width) + "  " for cell, width in zip(cells, WIDTHS[1:], strict=True))


def heading(text: str) -> str:
    """An area's name, bold on a terminal."""
    return strong(clean(text))


def event_line(event: dict[str, Any]) -> str:
    """An organiser's event: its name, its days, its page and what to know."""
    days = event["starts"] if event["starts"] == event["ends"] else f"{event['starts']} to {event['ends']}"
    return wrap(
        one_line(", ".join(filter(None, (event["name"], days, event["url"], event["note"])))), columns()
    )


def footer(found: int, total: int, hidden: int = 0) -> str:
    """How many there are, and what to do next."""
    if not found:
        return f"None of the {total} problems meets every filter: drop one, or try `mihack list`."
    more = f" ({hidden} more are hidden)" if hidden else ""
    return f"\n{found} of {total} problems{more}. Read one with `mihack show ID`, start with `mihack new ID`."
