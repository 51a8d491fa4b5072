"""`mihack show`: what is it, who has tried, what do we need to know?"""

from __future__ import annotations

import json
import os
import sys

import click

from mihack import completion
from mihack.catalog.index import load
from mihack.commands.options import catalog_option
from mihack.terminal import clean, coloured, columns, flow, one_line, plain, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mihack.catalog.index import Index

BASIS = {
    "posted": "the author's rating, as posted",
    "community": "from the community's database",
    "recalled": "the author's rating from memory, not checked again",
    "estimated": "our own estimate",
}
SECTIONS = {
    "problem": "Problem",
    "why": "Why it matters",
    "first_steps": "First steps",
    "further": "Going further",
    "prior_work": "Prior work",
}


@click.command(
    "show",
    epilog="Example: mihack show 3.1",
    short_help="Show one problem: what it is, who has tried, where to start.",
)
@click.argument("problem_id", metavar="ID", shell_complete=completion.problem_ids)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the whole card.")
@catalog_option
def show_command(problem_id: str, as_json: bool, catalog: tuple[str, ...]) -> None:
    """Show the card of problem ID: the community list's number, or the post's."""
    index = load(catalog, cache=True)
    item, note = find(index, problem_id)
    if note:
        say(note)
    if as_json:
        click.echo(json.dumps(item, indent=2))
        return
    text = clean(card(index, item))
    if plain() or not sys.stdout.isatty():
        wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ  # a file: its lines stay whole
        click.echo(text if wide else flow(joined(text), min(columns(), 100)))
    else:
        _render(text)


def joined(text: str) -> str:
    """Markdown with the lines of each paragraph and each item of a list put together, to be wrapped."""
    import re

    begin = re.compile(r"#|\||[-*>] |\d+[.)] |\$\$|$")
    lines, fenced, open_line = [""], False, False
    for line in text.split("\n"):
        word = line.lstrip(" ")
        mark = word.startswith(("```", "~~~"))
        code = fenced or mark or (line.startswith("    ") and not open_line)
        if open_line and not begin.match(word) and not code:
            lines[-1] += " " + word
        else:
            lines.append(line)
        fenced ^= mark
        open_line = bool(word) and not code and not word.startswith(("#", "|"))
    return "\n".join(lines[1:])


def find(index: Index, number: str) -> tuple[dict[str, Any], str]:
    """The problem with this id, else with this number in the posts; and what to say about it."""
    posted = [item for item in index.problems.values() if item["post_id"] == number.strip()]
    if number.strip() not in index.problems and len(posted) == 1:
        item = index.whole(posted[0])
        return item, f"{number} is its number in the post; the community list has it as {item['id']}."
    item = index.problem(number)
    others = [other["id"] for other in posted if other["id"] != item["id"]]
    note = f"In the posts, {number} is another problem: see {', '.join(others)}." if others else ""
    return item, note


def card(index: Index, item: dict[str, Any]) -> str:
    """The whole card as Markdown."""
    blocks = [f"# {one_line(item['id'])} {one_line(item['title'])}", facts(index, item)]
    blocks += [f"## {title}\n\n{item['sections'][key]}" for key, title in SECTIONS.items()]
    blocks += [works(index, item), terms(index, item), near(index, item), reading(index, item), start(item)]
    return "\n\n".join(block for block in blocks if block)


def facts(index: Index, item: dict[str, Any]) -> str:
    """What one filters by, in words."""
    area = index.areas.get(item["area"], {}).get("title", item["area"])
    number = ""
    if item["post_id"] and item["post_id"] != item["id"]:
        number = f" ({item['post_id']} in the post)"
    basis = BASIS[item["difficulty_basis"]]
    if item.get("difficulty_reason"):
        basis += f": {item['difficulty_reason']}"
    if item.get("community_letter"):
        basis += f"; the community's database says {item['community_letter']}"
    was = item.get("changed", {}).get("was", {})
    rated = (
        f"{item['difficulty']} (here; {was['difficulty']} {basis})"
        if "difficulty" in was
        else (f"{item['difficulty']} ({basis})")
    )
    starred = "; starred by the author" if item["starred"] else ""
    low, high = item["hours"]
    rows = {
        "Area": f"{area}, {item['subarea']}{number}",
        "Difficulty": f"{rated}{starred}",
        "Changed here": changed(item),
        "Status": f"{item['status']} (reviewed {item['reviewed']})",
        "Left to do": item["remains"],
        "Time": f"{low:g} to {high:g} hours to a first own result (our estimate)",
        "Needs": f"{item['compute']}; programming: {item['coding']}",
        "Models": "; ".join(item["models"]),
        "Tags": ", ".join(item["tags"]),
    }
    return "\n".join(f"- **{name}:** {one_line(text)}" for name, text in rows.items() if text)


def changed(item: dict[str, Any]) -> str:
    """What an organiser's catalogue rates otherwise: what it was, who says so and why."""
    if not item.get("changed"):
        return ""
    by, reason, was = (item["changed"][key] for key in ("by", "reason", "was"))
    told = {"hours": lambda pair: f"{pair[0]:g} to {pair[1]:g} hours"}
    before = ", ".join(told.get(field, str)(value) for field, value in was.items())
    return f"by {by}: {reason} (was {before})"


def works(index: Index, item: dict[str, Any]) -> str:
    """The works that bear on it, each with what it settles."""
    lines = []
    for ref in item["works"]:
        work = index.works.get(ref["work"])
        if work:
            unsure = "" if work["confirmed"] else " (citation not confirmed)"
            lines.append(
                f"- {work['authors']} ({work['year']}), {work['title']}, {address(work)}{unsure}. "
                f"{ref['bearing']}"
            )
    return "## Works that bear on it\n\n" + "\n".join(map(one_line, lines)) if lines else ""


def address(work: dict[str, Any]) -> str:
    """Where to find a work: arXiv number, DOI or address."""
    if work.get("arxiv"):
        return f"arXiv:{work['arxiv']}"
    return f"doi:{work['doi']}" if work.get("doi") else str(work["url"])


def terms(index: Index, item: dict[str, Any]) -> str:
    """The concepts it needs, each with the first sentence of its definition."""
    known = [index.concepts[slug] for slug in item["concepts"] if slug in index.concepts]
    lines = [f"- **{one_line(c['term'])}**: {first_sentence(one_line(c['summary']))}" for c in known]
    return "## What to know\n\n" + "\n".join(lines) if lines else ""


def near(index: Index, item: dict[str, Any]) -> str:
    """Related problems with their titles; one from a catalogue that is not here, by its id."""
    titles = {
        key: index.problems[key]["title"] if key in index.problems else ""
        for key in item["related"]
        if key not in index.hidden
    }
    lines = [f"- {one_line(f'{key} {title}')}" for key, title in titles.items()]
    return "## Related problems\n\n" + "\n".join(lines) if lines else ""


def first_sentence(text: str) -> str:
    """Up to and including the first full stop that ends a sentence."""
    head, stop, _ = text.partition(". ")
    return head + stop.strip()


def reading(index: Index, item: dict[str, Any]) -> str:
    """Resources and sources, with their addresses."""
    known = [index.resources[key] for key in item["resources"] if key in index.resources]
    lines = [f"- {r['title']}: {r['what_for']} {r['url']}" for r in known]
    lines += [f"- Source: {source['label']} {source['url']}" for source in item["sources"]]
    return "## Reading\n\n" + "\n".join(map(one_line, lines))


def start(item: dict[str, Any]) -> str:
    """The command that makes a repo for it, and what the starter will do."""
    starter = item["starter"]
    if starter is None:
        return "## Start\n\nNo experiment comes near this problem yet: start from First steps above."
    parameters = ", ".join(f"{key}={value}" for key, value in starter["parameters"].items())
    what = one_line(f"Starter: {starter['name']} ({parameters})")
    if starter.get("fit") == "near":
        what += ". It warms up the method; the question itself is still yours to set up."
        what += f" {one_line(starter['note'])}" if starter.get("note") else ""
    return f"## Start\n\n    mihack new {one_line(item['id'])}\n\n{what}"


def _render(text: str) -> None:
    """Markdown laid out for a terminal; card text is never read as rich's own markup."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(markup=False, highlight=False, no_color=not coloured(), width=min(columns(), 100))
    console.print(Markdown(text, hyperlinks=False))
