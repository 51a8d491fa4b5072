"""Options that several commands share."""

from __future__ import annotations

import click

catalog_option = click.option(
    "--catalog",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="Lay a catalogue folder over the shipped one. Repeatable.",
)
