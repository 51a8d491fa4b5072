"""The knobs of an experiment: read them, check values given for them, write the values in.

Values enter the script as Python literals at the positions that ``ast`` reports, never through a
template, and the comments beside them stay.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from ..errors import MihackError

Knob = bool | int | float | str


def read(source: str) -> dict[str, Knob]:
    """The UPPER_CASE literal assignments of a knobs cell: name -> value."""
    return {name: ast.literal_eval(node) for name, node in _assignments(source)}


def substitute(source: str, values: Mapping[str, Knob]) -> str:
    """The knobs cell with ``values`` (by UPPER_CASE name) written in as Python literals."""
    nodes = dict(_assignments(source))
    lines = [line.encode() for line in source.split("\n")]
    # From the end, so that earlier positions stay true. ast counts columns in UTF-8 bytes.
    places = {name: (node.lineno, node.col_offset) for name, node in nodes.items()}
    for name in sorted(nodes, key=places.__getitem__, reverse=True):
        node = nodes[name]
        if name not in values:
            continue
        if node.end_lineno != node.lineno:
            raise ValueError(f"knob {name} spans several lines")
        line = lines[node.lineno - 1]
        literal = _literal(values[name]).encode()
        lines[node.lineno - 1] = line[: node.col_offset] + literal + line[node.end_col_offset :]
    return b"\n".join(lines).decode()


def check(
    values: Mapping[str, Any],
    allowed: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Knob],
) -> dict[str, Knob]:
    """``values`` (by lower-case name) against the experiment's ``knobs:`` -> by UPPER_CASE name.

    The type is that of the default in the script; choices, min and max come from the experiment's
    yaml. Raises MihackError for an unknown name or a value that does not fit.
    """
    checked: dict[str, Knob] = {}
    for name, value in values.items():
        if name not in allowed or name.upper() not in defaults:
            raise _unknown(name, [known for known in allowed if known.upper() in defaults])
        checked[name.upper()] = _fitting(name, value, defaults[name.upper()], allowed[name])
    return checked


def from_text(settings: Mapping[str, str], defaults: Mapping[str, Knob]) -> dict[str, Any]:
    """Values typed as ``--set key=value``, read as the type of each knob's default."""
    return {
        name: _read_as(name, text, defaults[name.upper()]) if name.upper() in defaults else text
        for name, text in settings.items()
    }


def _assignments(source: str) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id.isupper() and _is_literal(value):
            found.append((target.id, value))
    return found


def _literal(value: Knob) -> str:
    """``repr``, but in double quotes where that is the same, as formatters like it."""
    text = repr(value)
    plain = isinstance(value, str) and not {'"', "\\"} & set(text) and text.startswith("'")
    return f'"{value}"' if plain else text


def _is_literal(node: ast.expr) -> bool:
    try:
        return isinstance(ast.literal_eval(node), bool | int | float | str)
    except ValueError:
        return False


def _unknown(name: str, known: list[str]) -> MihackError:
    import difflib

    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else _knob_list(known)
    return MihackError(f"this experiment has no parameter {name!r}", hint=hint)


def _knob_list(known: list[str]) -> str:
    return f"Its parameters are: {', '.join(known)}" if known else "It has no parameters to set."


def _read_as(name: str, text: str, default: Knob) -> Knob:
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        if text.lower() not in words:
            raise MihackError(f"{name}={text!r} is not true or false")
        return words[text.lower()]
    try:
        return type(default)(text)
    except ValueError:
        raise MihackError(f"{name}={text!r} is not {_a(type(default))}") from None


def _a(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def _fitting(name: str, value: Any, default: Knob, rule: Mapping[str, Any]) -> Knob:
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise MihackError(f"{name}={value!r} is not {_a(kind)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise MihackError(f"{name}={value!r} is not a finite number")
    choices = rule.get("choices")
    if choices and value not in choices:
        listed = ", ".join(map(str, choices))
        raise MihackError(f"{name}={value!r} is not a choice", hint=f"Choose one of: {listed}")
    _check_range(name, value, rule)
    return value


def _check_range(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    low, high = rule.get("min"), rule.get("max")
    if low is not None and value < low:
        raise MihackError(f"{name}={value!r} is too small", hint=f"The least is {low}.")
    if high is not None and value > high:
        raise MihackError(f"{name}={value!r} is too large", hint=f"The most is {high}.")
