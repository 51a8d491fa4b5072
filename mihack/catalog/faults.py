"""A fault: where it is, which field it is about, what is wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from mihack.catalog.yamllines import Node


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong in one file.  ``line`` counts from 1; ``field`` is a dotted path."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.field}: {self.message}"
        # Names and keys are somebody else's text: show a newline or an escape code as such.
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def show(value: Any) -> str:
    """``value`` in quotes, shortened, with nothing that a terminal would obey."""
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def meant(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or nothing if no known word is close."""
    close = difflib.get_close_matches(word[:100], sorted(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def one_of(words: Iterable[str]) -> str:
    """The words as a list for a sentence."""
    return ", ".join(words)


def path(loc: tuple[Any, ...]) -> str:
    """``("works", 0, "work")`` as ``works[0].work``."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def validate(node: Node, model: Any, file: str, prefix: tuple[Any, ...] = ()) -> tuple[Any, list[Fault]]:
    """Validate ``node`` against ``model``; the validated object (or None) and every fault."""
    try:
        return TypeAdapter(model).validate_python(node.plain()), []
    except ValidationError as error:
        return None, list(_faults(error, node, model, file, prefix))


def _faults(
    error: ValidationError, node: Node, model: Any, file: str, prefix: tuple[Any, ...]
) -> Iterator[Fault]:
    seen: set[tuple[int, str]] = set()
    for detail in error.errors(include_url=False, include_context=True, include_input=True):
        loc = _data_path(detail["loc"], node)
        where = node.at(loc)
        name = path(prefix + loc) or "card"
        # A union reports each of its members; one message per place is enough.
        if (where.line, name) in seen:
            continue
        seen.add((where.line, name))
        yield Fault(file, where.line, name, _message(dict(detail), where, model, loc))


def _data_path(loc: tuple[Any, ...], node: Node) -> tuple[Any, ...]:
    """``loc`` without the steps that name a type (pydantic adds those inside unions)."""
    steps: list[Any] = []
    for number, step in enumerate(loc):
        here = node.at(tuple(steps))
        inside = (here.members is not None and step in here.members) or (
            here.items is not None and isinstance(step, int)
        )
        last_field = number == len(loc) - 1 and isinstance(step, str) and here.members is not None
        if inside or (last_field and step.isidentifier()):
            steps.append(step)
    return tuple(steps)


def _message(detail: dict[str, Any], where: Node, model: Any, loc: tuple[Any, ...]) -> str:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "missing":
        return f"is missing. {_description(model, loc)}".strip()
    if kind == "extra_forbidden":
        known = _fields(model, loc[:-1])
        message = f"unknown field; known here: {one_of(known)}{meant(str(loc[-1]), known)}"
        # {why: one, two} is read as two fields; nobody expects that.
        return message + ("; a text with a comma needs quotes inside { }" if value is None else "")
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        words = str(context["expected"]).replace("'", "")
        choices = words.replace(" or ", ", ").split(", ")
        hint = meant(value, choices) if isinstance(value, str) else ""
        return f"is {show(value)}; it must be one of {one_of(choices)}{hint}"
    if kind == "string_type" and where.raw and not isinstance(value, str):
        return f'{where.raw} is not text to YAML; put it in quotes: "{where.raw}"'
    wanted = detail["msg"][0].lower() + detail["msg"][1:]
    return f"is {show(value)}; {wanted}. {_description(model, loc)}".strip()


def _model_at(model: Any, loc: tuple[Any, ...]) -> Any:
    """The pydantic model that ``loc`` leads to, or None where it leads to something else."""
    is_key = False
    for step in loc:
        if isinstance(step, int) or is_key:
            is_key = False  # an item of a list, or of a mapping: its model is already here
            continue
        fields = getattr(model, "model_fields", {})
        if step not in fields:
            return None
        is_key = get_origin(fields[step].annotation) is dict
        model = _inner_model(fields[step].annotation)
    return model


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _inner_model(part)) is not None:
            return found
    return None


def _fields(model: Any, loc: tuple[Any, ...]) -> list[str]:
    return list(getattr(_model_at(model, loc), "model_fields", {}))


def _description(model: Any, loc: tuple[Any, ...]) -> str:
    """What the schema says about the field at ``loc`` (or about the nearest field above)."""
    while loc:
        fields = getattr(_model_at(model, loc[:-1]), "model_fields", {})
        if loc[-1] in fields:
            return str(fields[loc[-1]].description or "")
        loc = loc[:-1]
    return ""
