"""Real runs: experiments that train, notebooks under a real kernel.  `make verify` runs the rest."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mihack.catalog.index import load
from mihack.scaffold.plan import Answers, plan
from mihack.scaffold.write import write

pytestmark = pytest.mark.slow
INDEX = load()
ROOT = Path(__file__).parent.parent
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

# Whole runs: a variant of each starter, and those that the project's promises name.
WHOLE = {
    "3.3": "modular addition mod 113",
    "3.16": "induction heads",
    "3.21": "a rotary previous-token head",
    "1.1": "a language model",
    "4.25": "five features in two dimensions",
    "2.2": "a circuit",
    "3.20": "Othello",
    "5.7": "the induction phase change",
    "6.8": "techniques on a known circuit",
    "6.20": "a survey of heads",
    "6.54": "two checkpoints",
    "7.1": "a small image network",
    "8.16": "a policy in a room",
    "9.1": "top examples of neurons",
    "NP020": "planted features",
}


def experiment_of(number: str) -> str:
    """The script that a problem starts from, as ``starter/experiment``."""
    starter = INDEX.problems[number]["starter"]
    return f"{starter['name']}/{starter['parameters'][INDEX.starters[starter['name']]['selector']]}"


# One problem for each other experiment script: a short run of every one of them.
FIRST_OF_EACH: dict[str, str] = {}
for _fit in ("exact", "near"):  # some experiments are a warm-up wherever they are used
    for _number, _item in INDEX.problems.items():
        if _item["starter"] and _item["starter"]["fit"] == _fit:
            FIRST_OF_EACH.setdefault(experiment_of(_number), _number)
for _number in WHOLE:
    FIRST_OF_EACH.pop(experiment_of(_number), None)


def repo(number: str, folder: Path) -> Path:
    target = folder / "repo"
    write(plan(INDEX.problem(number), Answers(), INDEX), target)
    return target


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "experiment.py", "--device", "cpu", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=OFFLINE, timeout=600)


def report(folder: Path) -> dict[str, object]:
    (path,) = (folder / "results").glob("*/metrics.json")
    loaded: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def test_every_starter_has_a_whole_run() -> None:
    assert {experiment_of(number).split("/")[0] for number in WHOLE} == set(INDEX.starters)


@pytest.mark.parametrize("number", WHOLE, ids=WHOLE.values())
def test_a_whole_run_meets_every_expectation(number: str, tmp_path: Path) -> None:
    folder = repo(number, tmp_path)
    done = run(folder, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(folder)
    assert found["met"] is True
    assert f"{len(found['rows'])} of {len(found['rows'])} as expected" in done.stdout  # type: ignore[arg-type]
    figures = list((folder / "results").glob("*/figures/*.png"))
    assert figures
    assert all(path.stat().st_size > 20_000 for path in figures)
    for name in ("config.json", "environment.json"):
        assert list((folder / "results").glob(f"*/{name}"))


@pytest.mark.parametrize("number", FIRST_OF_EACH.values(), ids=FIRST_OF_EACH)
def test_a_short_run_of_every_script_measures_every_row(number: str, tmp_path: Path) -> None:
    folder = repo(number, tmp_path)
    knobs = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["knobs"]
    counts = [name for name in knobs if name == "STEPS" or name.endswith("_STEPS")]
    done = run(folder, *(word for name in counts for word in (f"--{name.lower().replace('_', '-')}", "5")))
    assert done.returncode == 0, done.stderr
    found = report(folder)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert set(found["metrics"]) >= {row["metric"] for row in expected["rows"]}  # type: ignore[call-overload]


def test_an_untrained_network_misses_its_expectations(tmp_path: Path) -> None:
    folder = repo("3.16", tmp_path)
    done = run(folder, "--steps", "5", "--check")
    assert done.returncode == 1
    assert "MISSED" in done.stdout


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook top to bottom as `make verify` does; any error raises."""
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "scripts" / "run_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(path, folder)


def output(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out
    )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What running a notebook changes in the environment is put back; model hubs are out of reach."""
    monkeypatch.setenv("JUPYTER_PATH", "")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("kernel")
def test_the_notebook_runs_inside_its_repo(tmp_path: Path) -> None:
    folder = repo("3.21", tmp_path)
    ran = execute(folder / "notebook.ipynb", folder)
    assert "as expected" in output(ran)
    assert report(folder)["met"] is True


@pytest.mark.usefixtures("kernel")
def test_the_notebook_alone_in_an_empty_folder_runs_too(tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    files = plan(INDEX.problem("3.21"), Answers(), INDEX)
    (folder / "notebook.ipynb").write_bytes(files["notebook.ipynb"])
    ran = execute(folder / "notebook.ipynb", folder)
    assert "as expected" in output(ran)
    assert report(folder)["met"] is True
    images = [
        out for cell in ran.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})
    ]
    assert images, "the figure is shown in the notebook"
