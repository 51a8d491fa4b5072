"""Every problem of the shipped catalogue becomes a repo that reads well to Python, ruff and Jupyter."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mihack.catalog.index import load
from mihack.errors import MihackError
from mihack.scaffold.plan import Answers, Plan, plan

INDEX = load()
STARTED = [key for key, item in INDEX.problems.items() if item["starter"]]
tomllib = pytest.importorskip("tomllib")  # new in Python 3.11


def planned(number: str) -> Plan:
    return plan(INDEX.problem(number), Answers(), INDEX)


def test_every_algorithmic_and_toy_language_model_problem_has_an_experiment_of_its_own() -> None:
    exact = [
        INDEX.problems[key]["area"] for key in STARTED if INDEX.problems[key]["starter"]["fit"] == "exact"
    ]
    assert exact.count("algorithmic-problems") == 33
    assert exact.count("toy-language-models") == 23
    assert exact.count("superposition") >= 11  # the toy models; the rest of the area is about real ones


@pytest.mark.parametrize("number", [key for key in INDEX.problems if key not in STARTED])
def test_a_problem_without_an_experiment_says_what_to_do_instead(number: str) -> None:
    with pytest.raises(MihackError) as caught:
        planned(number)
    assert number in caught.value.message
    assert "mihack " in (caught.value.hint or "")


def test_every_warm_up_says_what_to_replace() -> None:
    started = {key: INDEX.problems[key]["starter"] for key in STARTED}
    near = {key: starter for key, starter in started.items() if starter["fit"] == "near"}
    assert near
    assert not [key for key, starter in near.items() if not starter.get("note")]


@pytest.mark.parametrize("number", STARTED)
class TestRepo:
    def test_script_notebook_and_project_are_well_formed(self, number: str) -> None:
        files = planned(number)
        ast.parse(files["experiment.py"])
        nbformat.validate(json.loads(files["notebook.ipynb"]))
        tomllib.loads(files["pyproject.toml"].decode())

    def test_it_has_the_lab_modules_that_it_imports_and_never_mihack(self, number: str) -> None:
        files = planned(number)
        for path, data in files.items():
            if not path.endswith(".py"):
                continue
            for name in imports(data, path):
                assert not name.startswith("mihack"), path
                if name.startswith("lab."):
                    assert name.replace(".", "/") + ".py" in files, f"{path} imports {name}"

    def test_expectations_have_controls_and_sources(self, number: str) -> None:
        rows = json.loads(planned(number)["expected.json"])["rows"]
        assert len(rows) >= 4
        assert all(row["why"] and row["source"] and len(row["label"]) <= 44 for row in rows)
        words = " ".join(f"{row['label']} {row['why']} {row['metric']}".lower() for row in rows)
        assert any(word in words for word in ("control", "noop", "random", "untrained", "shuffled"))

    def test_readme_names_problem_first_command_and_numbers(self, number: str) -> None:
        files = planned(number)
        readme = files["README.md"].decode()
        assert readme.startswith(f"# {number} ")
        assert "python experiment.py" in readme
        for row in json.loads(files["expected.json"])["rows"]:
            assert row["metric"]


def imports(data: bytes, path: str) -> set[str]:
    """Modules that a Python file imports; relative ones and ``from lab import x`` as ``lab.x``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.module == "lab":
                names |= {f"lab.{alias.name}" for alias in node.names}
            elif node.level and path.startswith("lab/"):
                own = [node.module] if node.module else [alias.name for alias in node.names]
                names |= {f"lab.{name}" for name in own}
            elif node.module:
                names.add(node.module)
    return names


def test_the_repos_are_ruff_clean_by_their_own_rules(tmp_path: Path) -> None:
    for number in STARTED:
        for path, data in planned(number).items():
            if path.endswith((".py", "pyproject.toml")):
                target = tmp_path / number / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff, "ruff is among the development requirements"
    done = subprocess.run(
        [ruff, "check", "--no-cache", "--output-format", "concise", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


class TestTheNumberedList:
    """The community list of the 200 problems: 339 numbers in nine areas, none missing."""

    TOTALS = (23, 38, 33, 45, 38, 59, 18, 22, 63)

    def test_every_number_of_the_list_has_its_card(self) -> None:
        wanted = [f"{area}.{n}" for area, total in enumerate(self.TOTALS, 1) for n in range(1, total + 1)]
        numbered = [key for key in INDEX.problems if key[0].isdigit()]
        assert numbered == wanted
        assert len(numbered) == 339

    def test_an_area_holds_the_numbers_of_its_chapter(self) -> None:
        chapters = {
            INDEX.problems[key]["area"]: key.split(".")[0] for key in INDEX.problems if key[0].isdigit()
        }
        assert len(chapters) == 9
        assert all(
            chapters[item["area"]] == key.split(".")[0]
            for key, item in INDEX.problems.items()
            if item["area"] in chapters
        )

    def test_newer_problems_have_a_series_of_their_own(self) -> None:
        newer = [key for key in INDEX.problems if not key[0].isdigit()]
        assert len(newer) >= 60
        assert all(key.startswith("NP") for key in newer)

    def test_no_two_problems_share_a_statement(self) -> None:
        statements = [INDEX.whole(item)["sections"]["problem"] for item in INDEX.problems.values()]
        assert len(set(statements)) == len(INDEX.problems) >= 399

    def test_every_work_on_a_card_is_confirmed(self) -> None:
        cited = {ref["work"] for item in INDEX.problems.values() for ref in INDEX.whole(item)["works"]}
        assert [key for key in cited if not INDEX.works[key]["confirmed"]] == []
        assert len(INDEX.resources) >= 80
        assert len(INDEX.concepts) >= 120
