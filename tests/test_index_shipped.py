"""The committed index and schemas are what the cards and models give today."""

from __future__ import annotations

import json

import pytest

from mihack.catalog import jsonschema
from mihack.catalog.build import build, halves, to_json
from mihack.catalog.check import check_shipped
from mihack.catalog.index import LISTED, LISTED_FIELDS, READ_LATER
from mihack.shipped import index_path, texts_path


def test_the_committed_index_equals_a_fresh_build() -> None:
    fresh = [to_json(half) for half in halves(build(check_shipped()))]
    committed = [index_path().read_text("utf-8"), texts_path().read_text("utf-8")]
    assert committed == fresh, "run `make catalog` and commit"
    assert fresh == [to_json(half) for half in halves(build(check_shipped()))]


def test_the_index_is_plain_and_complete() -> None:
    index = json.loads(index_path().read_text("utf-8"))
    rest = json.loads(texts_path().read_text("utf-8"))
    assert list(index) == ["format", *LISTED]
    assert all(list(problem) == list(LISTED_FIELDS) for problem in index["problems"].values())
    assert list(rest) == ["format", "cards", "area_texts", *READ_LATER]
    assert list(rest["cards"]) == list(index["problems"])
    for number, problem in index["problems"].items():
        assert problem["id"] == number
        sections = rest["cards"][number]["sections"]
        assert list(sections) == ["problem", "why", "first_steps", "further", "prior_work"]
        assert all(sections.values())
        if problem["starter"] is None:
            continue
        starter = rest["starters"][problem["starter"]["name"]]
        assert problem["starter"]["parameters"][starter["selector"]] in starter["experiments"]


@pytest.mark.parametrize("kind", jsonschema.KINDS)
def test_the_committed_schema_is_current(kind: str) -> None:
    committed = jsonschema.schema_path(kind).read_text("utf-8")
    assert committed == jsonschema.to_text(kind), "run `make catalog` and commit"


def _objects(schema: object) -> list[dict[str, object]]:
    if isinstance(schema, list):
        return [found for item in schema for found in _objects(item)]
    if not isinstance(schema, dict):
        return []
    here = [schema] if "properties" in schema and schema.get("type") == "object" else []
    return here + [found for item in schema.values() for found in _objects(item)]


@pytest.mark.parametrize("kind", jsonschema.KINDS)
def test_every_field_is_described_and_unknown_ones_refused(kind: str) -> None:
    for model in _objects(jsonschema.json_schema(kind)):
        assert model["additionalProperties"] is False
        properties = model["properties"]
        assert isinstance(properties, dict)
        assert [name for name, field in properties.items() if not field.get("description")] == []
