"""The starters' manifests and experiment descriptions, read from templates/starters/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mihack.catalog.card import LIST_BYTES
from mihack.catalog.faults import Fault, meant, show, validate
from mihack.catalog.files import Entry, read_bytes, read_yaml
from mihack.catalog.starter_schema import Experiment, Starter
from mihack.catalog.yamllines import Node

_LAB = Path(__file__).resolve().parent.parent / "lab"


def read_starters(templates: Path) -> tuple[dict[str, Any], list[Entry], list[Fault]]:
    """Every starter as plain data (manifest + experiments), its files, and their faults."""
    starters: dict[str, Any] = {}
    entries: list[Entry] = []
    faults: list[Fault] = []
    for folder in sorted((templates / "starters").iterdir()):
        if folder.is_dir() and not folder.name.startswith((".", "_")):
            starters[folder.name] = _starter(folder, entries, faults)
    return starters, entries, faults


def _starter(folder: Path, entries: list[Entry], faults: list[Fault]) -> dict[str, Any]:
    manifest = folder / "starter.yaml"
    entry, data = _described(manifest, Starter, f"starters/{folder.name}", faults)
    if entry is not None:
        entries.append(entry)
        if data.get("name") not in (None, folder.name):
            line = entry.node.at(("name",)).line
            message = f"is {show(data['name'])}, but the folder is {folder.name!r}"
            faults.append(Fault(str(manifest), line, "name", message))
    experiments = {}
    for path in sorted((folder / "experiments").glob("*.yaml")):
        entry, described = _described(path, Experiment, "experiments", faults)
        if entry is not None:
            entries.append(entry)
            faults += _script_faults(path, entry.node, described)
        experiments[path.stem] = described
    return {**data, "experiments": experiments}


def _described(path: Path, model: Any, kind: str, faults: list[Fault]) -> tuple[Entry | None, dict[str, Any]]:
    """The entry of a YAML file, and its validated data (empty if it has a fault)."""
    data = read_bytes(path, str(path), LIST_BYTES, faults)
    node = read_yaml(data, str(path), faults) if data is not None else None
    if node is None:
        return None, {}
    valid, found = validate(node, model, str(path))
    faults += found
    return Entry(kind, path.stem, str(path), node), valid.model_dump() if valid else {}


def _script_faults(path: Path, node: Node, described: dict[str, Any]) -> Iterator[Fault]:
    """Check an experiment against its script; adds each knob's default to ``described``."""
    script = path.with_suffix(".py")
    try:
        defaults = script_knobs(script.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        yield Fault(str(path), 1, "script", f"{script.name} cannot be read: {error}")
        return
    for name, knob in described.get("knobs", {}).items():
        where = node.at(("knobs", name)).line
        if name not in defaults:
            message = f"is not set in the knobs cell of {script.name}{meant(name, defaults)}"
            yield Fault(str(path), where, f"knobs.{name}", message)
            continue
        knob["default"] = defaults[name]
        if message := value_fault(defaults[name], knob):
            yield Fault(str(path), where, f"knobs.{name}", f"the script's default {message}")
    for number, row in enumerate(described.get("expected", [])):
        for name in row["when"]:
            if name not in defaults:
                where = node.at(("expected", number, "when", name)).line
                message = f"is no knob of {script.name}{meant(name, defaults)}"
                yield Fault(str(path), where, f"expected[{number}].when.{name}", message)
    for number, name in enumerate(described.get("lab", [])):
        if not (_LAB / f"{name}.py").is_file():
            message = f"{name!r} is no module of mihack/lab{meant(name, _lab_modules())}"
            yield Fault(str(path), node.at(("lab", number)).line, f"lab[{number}]", message)


def _lab_modules() -> list[str]:
    return [path.stem for path in _LAB.glob("*.py")]


def script_knobs(source: str) -> dict[str, Any]:
    """The literal UPPER_CASE assignments of the ``# %% knobs`` cell, names in lower case."""
    cell: list[str] = []
    inside = False
    for line in source.split("\n"):
        if line.startswith("# %%"):
            inside = line[4:].split()[:1] == ["knobs"]
        cell.append(line if inside else "")
    knobs = {}
    for statement in ast.parse("\n".join(cell)).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name.isupper():
                knobs[name.lower()] = ast.literal_eval(statement.value)
    return knobs


def value_fault(value: Any, knob: dict[str, Any]) -> str:
    """What is wrong with ``value`` for a knob, or nothing."""
    default = knob.get("default")
    choices = knob.get("choices")
    if choices is not None and not any(_same(value, choice) for choice in choices):
        return f"is {show(value)}; it must be one of {', '.join(map(str, choices))}"
    if default is not None and _kind(value) != _kind(default):
        return f"is {show(value)}; it must be {_kind(default)}, such as {default!r}"
    if isinstance(default, int) and isinstance(value, float):
        return f"is {value}; it must be a whole number, such as {default}"
    low, high = knob.get("min"), knob.get("max")
    if low is not None and _kind(value) == "a number" and value < low:
        return f"is {value}; it must be at least {low}"
    if high is not None and _kind(value) == "a number" and value > high:
        return f"is {value}; it must be at most {high}"
    return ""


def _same(value: Any, choice: Any) -> bool:
    return bool(value == choice) and _kind(value) == _kind(choice)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "text"
