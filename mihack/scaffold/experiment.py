"""The experiment that a problem starts from: its script, its knobs, and what it should find."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import shipped
from ..errors import MihackError
from . import knobs as knob_rules
from .knobs import Knob
from .percent import Cell, Script, parse

if TYPE_CHECKING:
    from ..catalog.index import Index

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KNOBS_TITLE = "knobs"
#: What every repo needs; a starter or an experiment may add to it (``needs``).
REQUIREMENTS = ("torch>=2.6,<3", "transformer-lens>=4.3,<5", "matplotlib>=3.8,<4", "markdown-it-py>=3,<5")
MODEL_FILES = ("config.json", "model.safetensors", "README.md")


@dataclass(frozen=True)
class Experiment:
    """An experiment with the problem's parameters and the user's settings written into it."""

    starter: str
    name: str
    about: Mapping[str, Any]  # the experiment's yaml
    script: Script
    knobs: dict[str, Knob]
    needs: tuple[str, ...] = ()  # packages beyond those that every repo has

    @property
    def requirements(self) -> tuple[str, ...]:
        """The packages of the repo, each once, those of every repo first."""
        return tuple(dict.fromkeys((*REQUIREMENTS, *self.needs)))

    @property
    def expected_rows(self) -> list[dict[str, Any]]:
        """The rows of expected.json: those whose ``when`` holds for these knobs."""
        return [
            {key: value for key, value in row.items() if key != "when" and value is not None}
            for row in self.about.get("expected", [])
            if self._holds(row.get("when", {}))
        ]

    def _holds(self, when: Mapping[str, Any]) -> bool:
        return all(self.knobs.get(name.upper()) == value for name, value in when.items())


def choose(problem: Mapping[str, Any], index: Index, settings: Mapping[str, str]) -> Experiment:
    """The experiment that a card names, with the card's parameters and ``settings`` filled in."""
    reference = problem["starter"]
    if reference is None:
        near = [key for key in problem.get("related", []) if index.problems.get(key, {}).get("starter")]
        here = f"Read it: mihack show {problem['id']}. "
        hint = here + (f"Start from a neighbour: mihack new {near[0]}" if near else "Others: mihack list")
        raise MihackError(f"No experiment comes near problem {problem['id']} yet.", hint=hint)
    starter = str(reference["name"])
    parameters = dict(reference.get("parameters", {}))
    manifest = index.starters.get(starter)
    if manifest is None or not _NAME.fullmatch(starter):
        raise MihackError(f"problem {problem['id']} names an unknown starter, {starter!r}")
    selector = str(manifest.get("selector", "task"))
    name = str(parameters.pop(selector, ""))
    about = manifest.get("experiments", {}).get(name)
    if about is None or not _NAME.fullmatch(name):
        message = f"the starter {starter} has no experiment {name!r} (problem {problem['id']})"
        raise MihackError(message)
    if selector in settings:
        raise MihackError(
            f"{selector} chooses the experiment and belongs to the problem",
            hint="Pick another problem instead: mihack list",
        )
    chosen = _filled(starter, name, about, parameters, settings)
    return replace(chosen, needs=(*manifest.get("needs", []), *about.get("needs", [])))


def _filled(
    starter: str,
    name: str,
    about: Mapping[str, Any],
    parameters: Mapping[str, Any],
    settings: Mapping[str, str],
) -> Experiment:
    script = parse(experiment_path(starter, name).read_text(encoding="utf-8"))
    place = knobs_cell(script)
    cell = script.cells[place]
    defaults = knob_rules.read(cell.source)
    given = {**parameters, **knob_rules.from_text(settings, defaults)}
    values = knob_rules.check(given, about.get("knobs", {}), defaults)
    cell = replace(cell, source=knob_rules.substitute(cell.source, values))
    cells = (*script.cells[:place], cell, *script.cells[place + 1 :])
    return Experiment(starter, name, about, Script(script.preamble, cells), {**defaults, **values})


def experiment_path(starter: str, name: str) -> Path:
    """Where the script of an experiment is."""
    return shipped.templates_dir() / "starters" / starter / "experiments" / f"{name}.py"


def knobs_cell(script: Script) -> int:
    """The place of the ``# %% knobs`` cell."""
    places = [i for i, cell in enumerate(script.cells) if cell.title == _KNOBS_TITLE]
    if len(places) != 1:
        raise MihackError(f"an experiment needs one '# %% knobs' cell; this one has {len(places)}")
    return places[0]


def lab_files(experiment: Experiment) -> dict[str, bytes]:
    """The modules of ``lab/`` that the experiment needs, those that they need, comparison and report."""
    folder = Path(shipped.__file__).parent / "lab"
    wanted = ["comparison", "report_page", *(str(name) for name in experiment.about.get("lab", []))]
    wanted += [name for cell in experiment.script.cells for name in _lab_imports(cell)]
    files = {"lab/__init__.py": (folder / "__init__.py").read_bytes()}
    while wanted:
        name = wanted.pop()
        path = folder / f"{name}.py"
        if f"lab/{name}.py" in files:
            continue
        if not name.isidentifier() or not path.is_file():
            raise MihackError(f"the experiment {experiment.name} needs lab/{name}.py: not there")
        files[f"lab/{name}.py"] = path.read_bytes()
        wanted += re.findall(r"^from \.(\w+) import", path.read_text(encoding="utf-8"), re.M)
        for names in re.findall(r"^from \. import (.+)$", path.read_text(encoding="utf-8"), re.M):
            wanted += [part.split(" as ")[0].strip() for part in names.split(",")]
    return dict(sorted(files.items()))


def zoo_dir() -> Path:
    """The folder of embedded models and texts."""
    return Path(shipped.__file__).parent / "zoo"


def carried_models(experiment: Experiment) -> dict[str, bytes]:
    """The embedded models and texts that the experiment uses, where ``lab/models.py`` looks for them.

    Of the checkpoints only those come along whose training steps stand in the knobs that the experiment
    names (``checkpoints: [early, late]``; -1 is the finished model): all of them weigh ten times as much.
    """
    zoo = zoo_dir()
    names = [str(name) for name in experiment.about.get("models", [])]
    files = {f"models/{name}/{part}": zoo / name / part for name in names for part in MODEL_FILES}
    for knob in experiment.about.get("checkpoints", []):
        step = experiment.knobs[str(knob).upper()]
        parts = [] if step == -1 else [f"{name}/checkpoints/step{step:05}.safetensors" for name in names]
        if absent := [part for part in parts if not (zoo / part).is_file()]:
            raise MihackError(f"{knob}={step}: no such checkpoint", hint=_steps(zoo, absent[0]))
        files |= {f"models/{part}": zoo / part for part in parts}
    if names:
        files["models/tokenizer.json"] = zoo / "tokenizer.json"
    for name in experiment.about.get("texts", []):
        files[f"texts/{name}.txt"] = zoo / "texts" / f"{name}.txt"
    for path in files.values():
        if not path.is_file():
            where = path.relative_to(zoo)
            raise MihackError(f"the experiment {experiment.name} needs mihack/zoo/{where}: not there")
    return {name: path.read_bytes() for name, path in sorted(files.items())}


def _steps(zoo: Path, absent: str) -> str:
    """The training steps that a model's folder has weights of."""
    steps = sorted(int(path.stem[4:]) for path in (zoo / absent).parent.glob("step*.safetensors"))
    return f"{absent.split('/')[0]} has the steps {', '.join(map(str, steps))}; -1: the finished model"


def _lab_imports(cell: Cell) -> list[str]:
    """The lab modules that a code cell imports."""
    found: list[str] = []
    if cell.kind != "code" or "lab" not in cell.source:
        return found
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.ImportFrom) and node.module == "lab":
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab."):
            found.append(str(node.module).split(".")[1])
    return found
