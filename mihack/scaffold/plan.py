"""Plan a research repo: problem + answers -> {relative path: bytes}. Nothing is written here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, shipped
from . import engine, notebook, percent, values
from .encode import json_text, markdown_text, one_line, url
from .experiment import Experiment, carried_models, choose, lab_files
from .paths import confined, slug

if TYPE_CHECKING:
    from ..catalog.index import Index

Plan = dict[str, bytes]

#: One line per planned file or folder, in the order in which a newcomer meets them. Those up to
#: pyproject.toml make the map that ``mihack new`` prints.
PURPOSES = {
    "README.md": "where to start: first command, number to expect, what next",
    "experiment.py": "the experiment: knobs at the top, read it top to bottom",
    "notebook.ipynb": "the same cells for Jupyter and Colab; runs alone too",
    "check_gpu.py": "is this machine ready, and does its GPU compute correctly?",
    "expected.json": "what the experiment should find, and why",
    "PROBLEM.md": "the problem in full: first steps, prior work, words used",
    "REPORT.md": "your write-up: a skeleton with prompts",
    "report.py": "makes report.html of REPORT.md and the newest runs",
    "lab/": "training loop, plots, result files: yours to change",
    "models/": "small trained models, with their model cards",
    "texts/": "text to read with them, never trained on",
    "tests/": "quick checks that it all still fits: pytest",
    "pyproject.toml": "dependencies (also requirements.txt)",
    "requirements.txt": "the dependencies again, for pip install -r",
    "AGENTS.md": "the same in short for coding assistants",
    ".github/": "runs the tests on every push",
    ".gitignore": "keeps results and caches out of git",
    ".mihack.json": "what this repo was made from, with hashes",
    "LICENSE": "MIT: keep it, change it, publish it",
}
MAP_LINES = 11


@dataclass(frozen=True)
class Answers:
    """What the user chose; every field has a default that works."""

    name: str = ""
    author: str = ""
    github: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def plan(problem: Mapping[str, Any], answers: Answers, index: Index) -> Plan:
    """Every file of the repo for ``problem``, by relative path. Pure: the same in, the same out."""
    experiment = choose(problem, index, answers.settings)
    templates = shipped.templates_dir()
    context = values.context(problem, experiment, index, project_name(problem, answers), answers)
    files = engine.render(templates / "project", context)
    overlay = templates / "starters" / experiment.starter / "project"
    if overlay.is_dir():
        files |= engine.render(overlay, context)
    files |= _experiment_files(problem, experiment, answers)
    files[".mihack.json"] = _provenance(problem, experiment, answers, files, index.event)
    return {confined(path): files[path] for path in sorted(files)}


def project_name(problem: Mapping[str, Any], answers: Answers) -> str:
    """The name in pyproject.toml: the answer if there is one, else from the card's file name."""
    return slug(answers.name or default_folder(problem))


def default_folder(problem: Mapping[str, Any]) -> str:
    """Where the repo goes when nobody says: the name of the card's file, without .md."""
    stem = Path(str(problem.get("file", ""))).stem
    return stem if stem and slug(stem) != "mihack-project" else slug(f"problem-{problem['id']}")


def _experiment_files(
    problem: Mapping[str, Any], experiment: Experiment, answers: Answers
) -> dict[str, bytes]:
    cells = (_title_cell(problem), *experiment.script.cells)
    script = percent.Script(experiment.script.preamble, cells)
    expected = {
        "problem": str(problem["id"]),
        "experiment": experiment.name,
        "knobs": experiment.knobs,
        "rows": experiment.expected_rows,
    }
    carried = {
        "check_gpu.py": check_gpu(),
        "expected.json": json_text(expected).encode(),
        **lab_files(experiment),
    }
    models = carried_models(experiment)
    built = notebook.build(
        cells,
        problem_id=str(problem["id"]),
        carried=carried,
        models=models,
        requirements=experiment.requirements,
        github=answers.github,
    )
    text = percent.dump(script)
    compile(text, "experiment.py", "exec")  # never hand out a script that Python cannot read
    return {**carried, **models, "experiment.py": text.encode(), "notebook.ipynb": notebook.to_bytes(built)}


def check_gpu() -> bytes:
    """The GPU check, the very file behind ``mihack doctor``: it needs nothing but itself."""
    return (Path(shipped.__file__).parent / "doctor.py").read_bytes()


def _title_cell(problem: Mapping[str, Any]) -> percent.Cell:
    """The first cell: which problem this is, and where it was posed."""
    title = f"# {markdown_text(str(problem['id']))} {markdown_text(problem['title'])}"
    sources = [
        f"[{markdown_text(source['label'])}]({url(source['url'])})"
        if url(source["url"])
        else markdown_text(source["label"])
        for source in problem.get("sources", [])
    ]
    posed = f"\n\nPosed in: {'; '.join(sources)}. PROBLEM.md has it in full." if sources else ""
    return percent.Cell("markdown", title + posed)


def _provenance(
    problem: Mapping[str, Any],
    experiment: Experiment,
    answers: Answers,
    files: Plan,
    event: Mapping[str, Any] | None,
) -> bytes:
    """What made this repo, and the hash of each file as made. No time of day in it."""
    record = {
        "format": 1,
        "mihack": __version__,
        "problem": str(problem["id"]),
        "title": one_line(problem["title"]),
        "event": event,
        "starter": experiment.starter,
        "experiment": experiment.name,
        "parameters": experiment.knobs,
        "answers": {
            "name": answers.name,
            "author": answers.author,
            "github": answers.github,
            "set": dict(sorted(answers.settings.items())),
        },
        "files": {path: hashlib.sha256(files[path]).hexdigest() for path in sorted(files)},
    }
    return json_text(record).encode()


def purposes(files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """The map of a plan for readers: (file or folder, purpose), most useful first."""
    return [
        (name, purpose)
        for name, purpose in list(PURPOSES.items())[:MAP_LINES]
        if name in files or any(path.startswith(name) for path in files if name.endswith("/"))
    ]
