"""docs/starters.md says what the index says: a row for each problem, generated and not by hand."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from mihack.catalog.index import load

ROOT = Path(__file__).parent.parent
INDEX = load()
PAGE = (ROOT / "docs" / "starters.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\S+) .*? \| (.*?) \| (exact|near) \| (\d+) \| (.+) \|$", PAGE, re.M)


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starters_table", ROOT / "scripts" / "starters_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes_from_the_index() -> None:
    assert script().page(INDEX) == PAGE, "run: python scripts/starters_table.py"


def test_every_problem_with_a_starter_has_one_row() -> None:
    started = [key for key, item in INDEX.problems.items() if item["starter"]]
    assert sorted(row[0] for row in ROWS) == sorted(started)


def test_a_row_has_what_the_card_and_its_experiment_say() -> None:
    for number, experiment, fit, seconds, expected in ROWS:
        starter = INDEX.problems[number]["starter"]
        selected = INDEX.starters[starter["name"]]
        about = selected["experiments"][starter["parameters"][selected["selector"]]]
        assert fit == starter["fit"]
        assert int(seconds) == about["seconds"]
        assert experiment.split(",")[0] in starter["parameters"].values()
        assert ": at " in expected or " to " in expected, number


def test_no_two_sections_of_one_starter() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.M)
    assert [name for name in headings if name != "No starter yet"] == list(INDEX.starters)
