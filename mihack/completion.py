"""What TAB offers: problem ids with their titles, areas, tags, terms.

Each function has click's ``shell_complete`` signature.  A broken catalogue offers nothing: an
error message in the middle of a command line would help nobody.
"""

from __future__ import annotations

import os

from mihack.terminal import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click
    from click.shell_completion import CompletionItem

    from mihack.catalog.index import Index


def _index(context: click.Context) -> Index | None:
    from mihack.catalog.index import load
    from mihack.errors import MihackError

    try:
        return load(context.params.get("catalog") or (), cache=True)
    except (MihackError, OSError):
        return None


def _items(pairs: Iterable[tuple[str, str]], start: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    # click's script for fish cuts a help text at its first comma
    fish = os.environ.get("_MIHACK_COMPLETE", "").startswith("fish")
    return [
        CompletionItem(value, help=one_line(text).replace(",", ";" if fish else ","))
        for value, text in pairs
        if value.lower().startswith(start.lower())
    ]


def words(*choices: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """A completion that offers fixed words."""
    return lambda context, parameter, start: _items(((choice, "") for choice in choices), start)


def problem_ids(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Ids that begin with what was typed, each with its title."""
    index = _index(context)
    return _items(((key, item["title"]) for key, item in index.problems.items()), start) if index else []


def areas(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Area slugs with their titles."""
    index = _index(context)
    return _items(((slug, area["title"]) for slug, area in index.areas.items()), start) if index else []


def tags(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Tags that some problem has."""
    index = _index(context)
    known = sorted({tag for item in index.problems.values() for tag in item["tags"]}) if index else []
    return _items(((tag, "") for tag in known), start)


def starters(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Starters and their experiments."""
    index = _index(context)
    if index is None:
        return []
    pairs = [(name, starter["summary"]) for name, starter in index.starters.items()]
    for name, starter in index.starters.items():
        pairs += [(f"{name}/{key}", spec["title"]) for key, spec in starter["experiments"].items()]
    return _items(pairs, start)


def terms(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Glossary slugs with their terms."""
    index = _index(context)
    return _items(((slug, item["term"]) for slug, item in index.concepts.items()), start) if index else []
