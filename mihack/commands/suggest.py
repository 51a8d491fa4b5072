"""`mihack suggest`: which problem suits this team, and why."""

from __future__ import annotations

import json
import sys

import click

from mihack import completion
from mihack.catalog.index import load
from mihack.catalog.query import CODING, COMPUTE
from mihack.commands.list import event_line
from mihack.commands.options import catalog_option
from mihack.terminal import columns, one_line, say, strong, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mihack.catalog.index import Index
    from mihack.catalog.suggest import Suggestion


@click.command(
    "suggest",
    epilog="Example: mihack suggest --hours 16 --people 3 --coding some --interest grokking",
    short_help="Suggest problems that suit your team, and say why.",
)
@click.option("--hours", type=click.FloatRange(1, 10000), help="Hours that each of you has.")
@click.option("--people", type=click.IntRange(1, 100), help="How many you are.")
@click.option(
    "--coding",
    type=click.Choice(CODING),
    help="How much programming you are up for: low, some or high.",
)
@click.option(
    "--compute",
    type=click.Choice(COMPUTE),
    help="The best machine you have: laptop, free-gpu, gpu or cluster.",
)
@click.option(
    "--interest", "interests", multiple=True, shell_complete=completion.tags, help="A subject. Repeatable."
)
@click.option("--count", type=click.IntRange(1, 100), default=5, help="How many (default: 5).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ids, scores and reasons.")
@catalog_option
def suggest_command(
    hours: float | None,
    people: int | None,
    coding: str | None,
    compute: str | None,
    interests: tuple[str, ...],
    count: int,
    as_json: bool,
    catalog: tuple[str, ...],
) -> None:
    """Rank the problems for your team by rules of ours, and say why for each.

    Run bare on a terminal it asks; elsewhere it takes 16 hours, 2 people, some programming, a laptop.
    """
    from mihack.catalog.suggest import Team, suggest

    bare = hours is None and people is None and coding is None and compute is None and not interests
    if bare and sys.stdin.isatty() and sys.stdout.isatty():
        hours, people, coding, compute, interests = ask()
    team = Team(hours or 16, people or 2, coding or "some", compute or "laptop", interests)
    index = load(catalog, cache=True)
    found = suggest(index, team)[:count]
    if as_json:
        click.echo(
            json.dumps([{"id": s.id, "score": s.score, "reasons": s.reasons} for s in found], indent=2)
        )
        return
    if index.event:
        click.echo(event_line(index.event) + "\n")
    click.echo("\n\n".join(lines(index, one) for one in found))
    hint = "\nThe ranking follows rules of ours. Read one with `mihack show ID`, start with `mihack new ID`."
    say(hint if found else "Nothing fits: give more hours or a bigger machine.")


def ask() -> tuple[float, int, str, str, tuple[str, ...]]:
    """The five questions, each with a default."""
    hours = click.prompt("Hours that each of you has", type=click.FloatRange(1, 10000), default=16.0)
    people = click.prompt("How many you are", type=click.IntRange(1, 100), default=2)
    coding = click.prompt("Programming", type=click.Choice(CODING), default="some")
    compute = click.prompt("Best machine", type=click.Choice(COMPUTE), default="laptop")
    interests = click.prompt("Interests, with commas between (may be empty)", default="", show_default=False)
    return (
        hours,
        people,
        coding,
        compute,
        tuple(part.strip() for part in interests.split(",") if part.strip()),
    )


def lines(index: Index, one: Suggestion) -> str:
    """A problem's id and title, and the reasons under it."""
    width = min(columns(), 100)
    title = wrap(one_line(f"{one.id}  {index.problems[one.id]['title']}"), width)
    return strong(title) + "\n" + wrap(one_line("; ".join(one.reasons)), width, "    ")
