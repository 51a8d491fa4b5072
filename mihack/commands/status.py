"""`mihack status`: how far is our repo, and what comes next?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from mihack.commands.options import catalog_option
from mihack.terminal import clean, coloured, columns, flow, one_line, strong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mihack.catalog.index import Index
    from mihack.scaffold.changes import Change, Template
    from mihack.scaffold.checklist import Item
    from mihack.scaffold.deadline import Deadline
    from mihack.scaffold.generated_repo import GeneratedRepo

MARKS = {"done": "[x]", "begun": "[~]", "open": "[ ]"}
COLOURS = {"done": "green", "begun": "yellow"}
repo_option = click.option(
    "--repo",
    "place",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder in the repo. Default: where you are.",
)


@click.command(
    "status",
    epilog="Example: mihack status --until 2026-11-30T17:00",
    short_help="Say how far the repo you stand in is, and what to do next.",
)
@click.option("--until", default="", metavar="TIME", help="When you hand in: a day, or 2026-11-30T17:00.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@repo_option
@catalog_option
def status_command(until: str, as_json: bool, place: Path | None, catalog: tuple[str, ...]) -> None:
    """Say how far the repo is that `mihack new` made, judged by what lies in it.

    Six items: understood, baseline reproduced, own question, controls, figure, write-up. Each names
    its evidence (runs in results/, text in REPORT.md, changed code) and what to do next.
    """
    from datetime import datetime

    from mihack.catalog.index import load
    from mihack.scaffold.changes import changes
    from mihack.scaffold.checklist import checklist
    from mihack.scaffold.deadline import deadline
    from mihack.scaffold.generated_repo import find
    from mihack.scaffold.runs import read_runs

    repo = find(place)
    index = load(catalog, cache=True)
    end = deadline(repo.event or index.event, until)
    runs, broken = read_runs(repo.root)
    found = changes(repo)
    items = checklist(_evidence(repo, index, runs, found))
    now = datetime.now().astimezone()
    if as_json:
        click.echo(json.dumps(_data(repo, items, found, len(runs), end, now), indent=2))
        return
    title = one_line(f"{repo.problem} {repo.title}")
    click.echo(strong(flow(title, columns())) + "\n")
    click.echo("\n".join(map(lines, items)) + "\n")
    for text in (*_counts(found, len(repo.files)), *_unreadable(broken), *_time(end, now)):
        click.echo(flow(clean(text), columns()))


def lines(item: Item) -> str:
    """An item: its mark, name and evidence, and under it what to do next."""
    evidence, todo = one_line(item.evidence), one_line(item.next)
    shown = flow(f"{item.name}: {evidence}", columns() - 4).replace("\n", "\n    ")
    mark = MARKS[item.state]
    if coloured():
        mark = click.style(mark, fg=COLOURS[item.state]) if item.state in COLOURS else mark
        shown = strong(item.name) + shown.removeprefix(item.name)
    under = flow(todo, columns() - 7).replace("\n", "\n       ")
    return f"{mark} {shown}" + (f"\n    -> {under}" if todo else "")


def _evidence(repo: GeneratedRepo, index: Index, runs: list[Any], found: list[Change]) -> Any:
    import contextlib

    from mihack.errors import MihackError
    from mihack.scaffold.changes import code_changed, template
    from mihack.scaffold.checklist import Evidence

    made: Template | None = None
    with contextlib.suppress(MihackError):  # from a catalogue that is not here: the hashes must do
        made = template(repo, index)
    code = code_changed(repo, found, made)
    times = [(repo.root / path).stat().st_mtime for path in code]
    report = repo.root / "REPORT.md"
    text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
    return Evidence(repo, runs, text, code, max(times, default=0.0))


def _counts(found: list[Change], total: int) -> list[str]:
    count = {state: sum(change.state == state for change in found) for state in ("changed", "new", "deleted")}
    said = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    return [f"Files: {said or 'none changed'}, of {total} that were made. See `mihack diff --stat`."]


def _unreadable(broken: list[str]) -> list[str]:
    return [f"Runs that cannot be read: {', '.join(broken)}"] if broken else []


def _time(end: Deadline | None, now: Any) -> list[str]:
    return [f"Time: {end.words(now)}"] if end else []


def _data(
    repo: GeneratedRepo, items: list[Item], found: list[Change], runs: int, end: Deadline | None, now: Any
) -> dict[str, Any]:
    from dataclasses import asdict

    left: dict[str, Any] | None = None
    if end:
        seconds = max(0, int((end.ends - now).total_seconds()))
        left = {"event": end.event, "ends": end.ends.isoformat(), "seconds_left": seconds}
    return {
        "repo": str(repo.root),
        "problem": repo.problem,
        "title": repo.title,
        "items": [asdict(item) for item in items],
        "runs": runs,
        "changes": {change.path: change.state for change in found},
        "time": left,
    }
