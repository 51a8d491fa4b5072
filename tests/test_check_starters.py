"""Starters: their YAML is checked against the schema and against the script beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_catalog import changed, write

from mihack.catalog.starters import read_starters, script_knobs, value_fault

SCRIPT = '''\
"""A script."""

# %% knobs
SEED = 0  # split, weights
LENGTH = 5  # numbers in a list
VARIABLE_LENGTH = False
ORDER = "up"  # up or down
LR = 1e-2

# %%
NOT_A_KNOB = print("never run")
'''
MANIFEST = """\
name: toys
summary: Toys.
areas: [demo]
selector: task
needs: [torch]
"""
EXPERIMENT = """\
title: Sorting
summary: Sort.
knobs:
  length: {help: numbers in a list, min: 2, max: 20}
  variable_length: {help: whether lists differ in length}
  order: {help: which way, choices: [up, down]}
seconds: 25
lab: [results]
expected:
  - {metric: accuracy, label: Accuracy, at_least: 0.99, why: "one, two", when: {order: up}}
  - {metric: noop, label: Nothing, between: [0, 1.0e-5], unit: share}
look_at: |
  The figure.
next: [Go on]
references: []
"""
FOLDER = "starters/toys"


def faults(tmp_path: Path, *, manifest: str = MANIFEST, experiment: str = EXPERIMENT,
           script: str | None = SCRIPT) -> list[str]:  # fmt: skip
    files: dict[str, str | bytes] = {
        f"{FOLDER}/starter.yaml": manifest,
        f"{FOLDER}/experiments/sort.yaml": experiment,
    }
    if script is not None:
        files[f"{FOLDER}/experiments/sort.py"] = script
    found = read_starters(write(tmp_path, files))[2]
    return [f"{Path(f.file).name}:{f.line}: {f.field}: {f.message}" for f in found]


def test_a_starter_holds_its_experiments_and_their_defaults(tmp_path: Path) -> None:
    assert faults(tmp_path) == []
    starter = read_starters(tmp_path)[0]["toys"]
    assert starter["selector"] == "task"
    knobs = starter["experiments"]["sort"]["knobs"]
    defaults = {name: knob["default"] for name, knob in knobs.items()}
    assert defaults == {"length": 5, "variable_length": False, "order": "up"}


def test_knobs_are_read_without_running_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert script_knobs(SCRIPT) == {
        "seed": 0, "length": 5, "variable_length": False, "order": "up", "lr": 0.01,
    }  # fmt: skip
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  length: {", "  lenght: {", "sort.yaml:4: knobs.lenght: is not set in the knobs cell"),
        ("min: 2", "min: 9", "sort.yaml:4: knobs.length: the script's default is 5"),
        ("[up, down]", "[down]", "sort.yaml:6: knobs.order: the script's default is 'up'"),
        ("help: which way", "hepl: which", "sort.yaml:6: knobs.order.help: is missing. What it does"),
        ("[results]", "[resluts]", "sort.yaml:8: lab[0]: 'resluts' is no module of mihack/lab"),
        ("at_least: 0.99, ", "", "sort.yaml:10: expected[0]: needs exactly one of"),
        ("at_least: 0.99", "at_least: 1, at_most: 2", "sort.yaml:10: expected[0]: needs exactly"),
        ('"one, two"', "one, two", "sort.yaml:10: expected[0].two: unknown field; known here: metric"),
        ('"one, two"', "one, two", "a text with a comma needs quotes inside { }"),
        ("{order: up}", "{ordr: up}", "sort.yaml:10: expected[0].when.ordr: is no knob of sort.py"),
        ("[0, 1.0e-5]", "[1, 0]", "sort.yaml:11: expected[1]: between is [low, high]"),
        ("seconds: 25", "seconds: 25\ncheckpoints: [step]", "checkpoints names step: no knob of this"),
        ("seconds: 25", "seconds: fast", "sort.yaml:7: seconds: is 'fast'; input should be a valid"),
    ],
)
def test_experiment_fault(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = faults(tmp_path, experiment=changed(EXPERIMENT, (old, new)))
    assert any(expected in fault for fault in found), found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: toys", "name: toy", "starter.yaml:1: name: is 'toy', but the folder is 'toys'"),
        ("selector", "select", "starter.yaml:1: selector: is missing"),
        ("selector", "select", "starter.yaml:4: select: unknown field"),
    ],
)
def test_manifest_fault(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = faults(tmp_path, manifest=changed(MANIFEST, (old, new)))
    assert any(expected in fault for fault in found), found


def test_a_missing_or_broken_script_is_a_fault(tmp_path: Path) -> None:
    assert "sort.py cannot be read" in faults(tmp_path, script=None)[0]
    assert "sort.py cannot be read" in faults(tmp_path, script="# %% knobs\nA = (\n")[0]
    assert "sort.py cannot be read" in faults(tmp_path, script="# %% knobs\nA = print()\n")[0]


@pytest.mark.parametrize(
    ("value", "knob", "fault"),
    [
        (3, {"default": 5}, ""),
        (3, {"default": 5.0}, ""),
        (True, {"default": 5}, "must be a number"),
        (1, {"default": True}, "must be true or false"),
        ("3", {"default": 5}, "must be a number"),
        (3, {"default": "a"}, "must be text"),
        (2.5, {"default": 5}, "must be a whole number"),
        (1, {"choices": [True, "a"]}, "must be one of True, a"),
        (1, {"default": 5, "min": 2}, "at least 2"),
        (9, {"default": 5, "max": 8}, "at most 8"),
        (8, {"default": 5, "min": 8, "max": 8}, ""),
    ],
)
def test_value_of_a_knob(value: object, knob: dict[str, object], fault: str) -> None:
    message = value_fault(value, knob)
    assert fault in message
    assert bool(fault) == bool(message)
