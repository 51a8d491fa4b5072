"""`mihack explain`: a term of the field in two sentences."""

from __future__ import annotations

import json

import click

from mihack import completion
from mihack.catalog.index import load
from mihack.commands.options import catalog_option
from mihack.terminal import clean, columns, fit, flow, one_line, plain, rows, strong, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mihack.catalog.index import Index


@click.command(
    "explain",
    epilog="Example: mihack explain induction head",
    short_help="Explain a term, or list the glossary.",
)
@click.argument("term", nargs=-1, shell_complete=completion.terms)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@catalog_option
def explain_command(term: tuple[str, ...], as_json: bool, catalog: tuple[str, ...]) -> None:
    """Explain TERM: definition, shape, TransformerLens name, and the problems that need it.

    Without TERM, list every term.
    """
    index = load(catalog, cache=True)
    if not term:
        click.echo(json.dumps(index.concepts, indent=2) if as_json else glossary(index))
        return
    slug, concept = index.concept(" ".join(term))
    users = [key for key, item in index.problems.items() if slug in index.whole(item)["concepts"]]
    if as_json:
        click.echo(json.dumps({"slug": slug, **concept, "problems": users}, indent=2))
    else:
        click.echo(entry(index, concept, users))


def glossary(index: Index) -> str:
    """Every term with the start of its definition."""
    pairs = [(one_line(item["term"]), one_line(item["summary"])) for item in index.concepts.values()]
    width = min(30, max((len(term) for term, _ in pairs), default=0))
    left = columns() - width - 2
    pairs.sort(key=lambda pair: pair[0].casefold())
    if not plain():  # one line for each, so that one can look down the list
        pairs = [(term, fit(text, left).rstrip()) for term, text in pairs]
    return "\n".join(rows(pairs, [width]))


def entry(index: Index, concept: dict[str, Any], users: list[str]) -> str:
    """One term, as text that fits the terminal."""
    width = min(columns(), 100)
    also = f"  (also: {', '.join(concept['aliases'])})" if concept["aliases"] else ""
    blocks = [
        strong(wrap(one_line(concept["term"] + also), width)),
        wrap(one_line(concept["summary"]), width),
    ]
    for label, key in (("Formula", "formula"), ("TransformerLens", "transformer_lens")):
        if concept.get(key):
            blocks.append(f"{label}:\n" + wrap(one_line(concept[key]), width, "  "))
    if concept.get("body"):
        paragraphs = clean(concept["body"]).split("\n\n")
        blocks += [wrap(one_line(part.lstrip("# ")), width) for part in paragraphs]
    near = [index.concepts[slug]["term"] for slug in concept["see_also"] if slug in index.concepts]
    if near:
        blocks.append(wrap("See also: " + one_line(", ".join(near)), width))
    if users:
        blocks.append(wrap("Problems that need it: " + one_line(", ".join(users)), width))
    blocks += [flow(one_line(f"{link['label']}: {link['url']}"), width) for link in concept["links"]]
    return "\n\n".join(blocks)
