"""`mihack schema`: the JSON Schema of a card, for editors."""

from __future__ import annotations

import click

KINDS = ("problem", "area", "concept", "resource", "work", "overlay", "starter", "experiment")


@click.command(
    "schema",
    epilog="Example: mihack schema problem > problem.schema.json",
    short_help="Print the JSON Schema of a card, for editors.",
)
@click.argument("kind", type=click.Choice(KINDS), default="problem")
def schema_command(kind: str) -> None:
    """Print the JSON Schema of KIND: a card's front matter, or a whole YAML file."""
    # pydantic is for this command alone
    from mihack.catalog.jsonschema import to_text

    click.echo(to_text(kind), nl=False)
