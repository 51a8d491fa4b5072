"""docs/authoring.md describes every field of the schema, and its editor settings are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mihack.catalog import schema, starter_schema
from mihack.catalog.schema import Strict

GUIDE = (Path(__file__).parent.parent / "docs" / "authoring.md").read_text("utf-8")
MODELS = {
    "Problem": schema.Problem,
    "Problem: an entry of `works`": schema.WorkRef,
    "Problem: `starter`": schema.StarterRef,
    "Problem: an entry of `sources`": schema.Source,
    "Area": schema.Area,
    "Concept": schema.Concept,
    "Concept: an entry of `links`": schema.Link,
    "Resource": schema.Resource,
    "Work": schema.Work,
    "Overlay": schema.Overlay,
    "Overlay: `event`": schema.Event,
    "Overlay: an entry of `change`": schema.Change,
    "Starter": starter_schema.Starter,
    "Experiment": starter_schema.Experiment,
    "Experiment: an entry of `knobs`": starter_schema.Knob,
    "Experiment: an entry of `expected`": starter_schema.ExpectedRow,
}


def _documented(heading: str) -> dict[str, bool]:
    """field -> required, from the table below the heading."""
    (body,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", GUIDE, re.M | re.S)
    return {name: flag == "yes" for name, flag in re.findall(r"^\| `(\w+)` \| (\w+) \|", body, re.M)}


@pytest.mark.parametrize("heading", MODELS)
def test_every_field_is_documented(heading: str) -> None:
    fields = MODELS[heading].model_fields
    assert _documented(heading) == {name: field.is_required() for name, field in fields.items()}


def test_every_model_is_documented() -> None:
    defined = {
        model
        for module in (schema, starter_schema)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Strict) and model is not Strict
    }
    assert defined == set(MODELS.values())


def test_the_headings_are_those_that_the_check_wants() -> None:
    from mihack.catalog.card import AREA_HEADINGS, PROBLEM_HEADINGS

    text = " ".join(GUIDE.split())
    assert ", ".join(PROBLEM_HEADINGS.values()) in text
    assert ", ".join(AREA_HEADINGS) in text
