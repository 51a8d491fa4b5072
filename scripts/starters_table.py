"""Write docs/starters.md: what each problem starts from, how long it takes, and what it should find.

    python scripts/starters_table.py

Everything in it is read from the index, and ``tests/test_starters_table.py`` holds the page to it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mihack.catalog.index import Index, load
from mihack.errors import MihackError
from mihack.scaffold.encode import markdown_text
from mihack.scaffold.experiment import Experiment, choose
from mihack.scaffold.values import bound_md

PAGE = Path(__file__).resolve().parent.parent / "docs" / "starters.md"
INTRO = """\
# What each problem starts from

Written by `scripts/starters_table.py` (`make catalog`). A row is what `mihack new ID` begins with: the
experiment and what the card sets of it, whether it opens that very question (exact) or is a warm-up (near:
the repo's README says what to replace), seconds on two laptop cores, and the first thing that the experiment
should find. Every repo lists the rest, with controls, in `expected.json`; [verification.md](verification.md)
has what three seeds found.
"""
HEAD = "| problem | experiment | fit | seconds | expected |\n|---|---|---|---|---|"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(load()), encoding="utf-8", newline="\n")
    print(f"{PAGE.name}: {PAGE.stat().st_size} characters")


def page(index: Index) -> str:
    """The whole page: a section for each starter, then what has none."""
    started: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in index.problems:
        item = index.problem(key)
        started[(item["starter"] or {"name": ""})["name"]].append(item)
    parts = [INTRO]
    for name, starter in index.starters.items():
        lines = "\n".join(_line(item, index) for item in started[name]) or "| none yet | | | | |"
        parts.append(f"## {name}\n\n{markdown_text(starter['summary'])}\n\n{HEAD}\n{lines}\n")
    if started[""]:
        lines = "\n".join(f"- {_problem(item)}" for item in started[""])
        parts.append(f"## No starter yet\n\n{lines}\n")
    return "\n".join(parts)


def _problem(item: dict[str, Any]) -> str:
    return f"{item['id']} {markdown_text(item['title'])}"


def _line(item: dict[str, Any], index: Index) -> str:
    try:
        experiment = choose(item, index, {})
    except MihackError as error:
        return f"| {_problem(item)} | {markdown_text(error.message)} | | | |"
    starter = item["starter"]
    selector = index.starters[starter["name"]]["selector"]
    knobs = [f"{name} {value}" for name, value in starter["parameters"].items() if name != selector]
    what = markdown_text(", ".join([experiment.name, *knobs]))
    fit, seconds = starter["fit"], experiment.about["seconds"]
    return f"| {_problem(item)} | {what} | {fit} | {seconds} | {_expected(experiment)} |"


def _expected(experiment: Experiment) -> str:
    """The main row: the first with a source that is no control, baseline or no-op; else the first."""
    rows = experiment.expected_rows
    minor = ("control", "baseline", "no-op", "random", "untrained", "before training")
    major = [row for row in rows if row.get("source") and not any(w in row["label"].lower() for w in minor)]
    if not rows:
        return "none"
    row = (major or rows)[0]
    source = f" ({row['source']})" if row.get("source") else ""
    return markdown_text(f"{row['label']}: {bound_md(row)}{source}")


if __name__ == "__main__":
    main()
