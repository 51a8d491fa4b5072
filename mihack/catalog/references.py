"""Reference integrity: whatever a card names must exist, and be named once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mihack.catalog.faults import Fault, meant, one_of, path, show
from mihack.catalog.files import Entry
from mihack.catalog.starters import value_fault

# kind of card -> field of names -> kind of what is named; [] walks a list.
REFERENCES: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "problems": (
        (("area",), "areas"),
        (("concepts", "[]"), "concepts"),
        (("resources", "[]"), "resources"),
        (("works", "[]", "work"), "works"),
        (("related", "[]"), "problems"),
    ),
    "concepts": ((("see_also", "[]"), "concepts"),),
    "overlay": (
        (("only", "[]"), "problems"),
        (("hide", "[]"), "problems"),
        (("hide_areas", "[]"), "areas"),
        (("change", "[]", "problem"), "problems"),
    ),
    "experiments": ((("references", "[]"), "works"),),
}
STARTER_REFERENCES = ((("areas", "[]"), "areas"),)
WHERE = {
    "areas": "a file of areas/",
    "concepts": "a file of concepts/",
    "resources": "a key of resources.yaml",
    "works": "a key of works.yaml",
    "problems": "the id of a problem",
}


def reference_faults(entry: Entry, names: Mapping[str, set[str]]) -> Iterator[Fault]:
    """Names in ``entry`` that nothing has, and a card that names itself."""
    fields = REFERENCES.get(entry.kind, ())
    if entry.kind.startswith("starters/"):
        fields = STARTER_REFERENCES
    for steps, kind in fields:
        for loc, name in _values(entry, steps):
            line = entry.node.at(loc).line
            if name not in names[kind]:
                message = f"{show(name)} is not {WHERE[kind]}{meant(name, names[kind])}"
                yield Fault(entry.file, line, path(loc), message)
            elif kind == entry.kind and name == entry.key:
                yield Fault(entry.file, line, path(loc), "names the card itself; leave it out")


def _values(entry: Entry, steps: tuple[str, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every text at ``steps``, with its path; whatever has another type is the schema's fault."""
    level: list[tuple[tuple[Any, ...], Any]] = [((), entry.node.plain())]
    for step in steps:
        deeper: list[tuple[tuple[Any, ...], Any]] = []
        for loc, value in level:
            if step == "[]" and isinstance(value, list):
                deeper += [((*loc, n), item) for n, item in enumerate(value)]
            elif isinstance(value, dict) and step in value:
                deeper.append(((*loc, step), value[step]))
        level = deeper
    return ((loc, value) for loc, value in level if isinstance(value, str))


def starter_faults(entry: Entry, starters: Mapping[str, Any]) -> Iterator[Fault]:
    """A problem's starter: it exists, selects an experiment, and sets knobs that this one has."""
    reference = entry.node.plain().get("starter")
    if not isinstance(reference, dict) or not isinstance(reference.get("name"), str):
        return
    for field, message in _starter_messages(reference["name"], reference.get("parameters"), starters):
        loc = ("starter", *field)
        yield Fault(entry.file, entry.node.at(loc).line, path(loc), message)


def _starter_messages(
    name: str, parameters: Any, starters: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str]]:
    if name not in starters:
        known = one_of(sorted(starters)) or "none"
        message = f"{show(name)} is not a starter; the starters are {known}"
        yield ("name",), message + meant(name, starters)
        return
    selector, experiments = starters[name].get("selector"), starters[name]["experiments"]
    if selector is None or not isinstance(parameters, dict):
        return  # the manifest or the card has a fault of its own, which is reported there
    known = one_of(sorted(experiments)) or "none"
    if selector not in parameters:
        yield ("parameters",), f"{selector} is missing; it chooses the experiment: {known}"
        return
    chosen = parameters[selector]
    if chosen not in experiments:
        message = f"{show(chosen)} is not an experiment of {name}; the experiments are {known}"
        yield ("parameters", selector), message + meant(str(chosen), experiments)
    elif (knobs := experiments[chosen].get("knobs")) is not None:
        settings = {knob: value for knob, value in parameters.items() if knob != selector}
        yield from _knob_messages(settings, knobs, f"{name}/{chosen}")


def _knob_messages(
    settings: Mapping[str, Any], knobs: Mapping[str, Any], experiment: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    for knob, value in settings.items():
        if knob not in knobs:
            known = one_of(sorted(knobs)) or "none"
            message = f"is no knob of {experiment}; its knobs are {known}{meant(knob, knobs)}"
            yield ("parameters", knob), message
        elif message := value_fault(value, knobs[knob]):
            yield ("parameters", knob), message
