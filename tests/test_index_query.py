"""The index at run time: finding, filtering, searching."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mihack.catalog.index import Index, natural
from mihack.catalog.query import letters, query
from mihack.errors import MihackError


def problem(number: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "post_id": None,
        "title": f"Problem {number}",
        "area": "algorithmic-problems",
        "subarea": "Beginner",
        "difficulty": "A",
        "status": "open",
        "hours": [2, 6],
        "compute": "laptop",
        "coding": "low",
        "tags": ["sorting"],
        "concepts": ["attention"],
        "models": [],
        "works": [],
        "remains": "All of it.",
        "starter": {"name": "algorithmic", "parameters": {"task": "sort"}},
        "sections": {"problem": "Text.", "why": ""},
        **changes,
    }


PROBLEMS = [
    problem("3.1"),
    problem("3.9", difficulty="B-D", status="partly answered", compute="gpu", coding="high"),
    problem("3.10", difficulty="B", hours=[6, 30], tags=["sorting", "grokking"], post_id="3.11"),
    problem("NP001", difficulty="A-B", area="toy-language-models", compute="free-gpu",
            coding="some", starter={"name": "toy-lm", "parameters": {"study": "neuron"}},
            title="Modular Grokking", status="largely answered"),
    problem("NP010", difficulty="D", tags=["probes"], sections={"problem": "We grokking-test it."},
            starter={"name": "algorithmic", "parameters": {"task": "modular"}}),
]  # fmt: skip
CONCEPT = {"term": "Attention pattern", "aliases": ["where a head looks"]}


@pytest.fixture
def index() -> Index:
    return Index(
        {
            "problems": {item["id"]: item for item in PROBLEMS},
            "areas": {
                "algorithmic-problems": {"title": "Interpreting algorithmic problems"},
                "toy-language-models": {"title": "Toy language models"},
            },
            "concepts": {"attention": CONCEPT},
            "resources": {},
            "works": {},
            "starters": {
                "algorithmic": {"selector": "task", "experiments": {"sort": {}, "modular": {}}},
                "toy-lm": {"selector": "study", "experiments": {"neuron": {}}},
            },
        }
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "3.1 3.9 3.10 NP001 NP010"),
        ({"difficulty": "A"}, "3.1 NP001"),
        ({"difficulty": "b"}, "3.9 3.10 NP001"),
        ({"difficulty": "C"}, "3.9"),
        ({"difficulty": "C-D"}, "3.9 NP010"),
        ({"difficulty": "A-D"}, "3.1 3.9 3.10 NP001 NP010"),
        ({"area": "toy-language-models"}, "NP001"),
        ({"area": "toy"}, "NP001"),
        ({"area": "Interpreting"}, "3.1 3.9 3.10 NP010"),
        ({"status": "open"}, "3.1 3.10 NP010"),
        ({"status": "partly"}, "3.9"),
        ({"status": "Largely Answered"}, "NP001"),
        ({"compute": "laptop"}, "3.1 3.10 NP010"),
        ({"compute": "free-gpu"}, "3.1 3.10 NP001 NP010"),
        ({"coding": "some"}, "3.1 3.10 NP001 NP010"),
        ({"hours": 6}, "3.1 3.9 NP001 NP010"),
        ({"hours": 5.5}, ""),
        ({"starter": "algorithmic"}, "3.1 3.9 3.10 NP010"),
        ({"starter": "algorithmic/modular"}, "NP010"),
        ({"tags": ["grokking"]}, "3.10"),
        ({"tags": ["Sorting", "grokking"]}, "3.10"),
        ({"text": "grokking"}, "NP001 3.10 NP010"),
        ({"text": "GROKKING test"}, "NP010"),
        ({"text": "attention pattern"}, "3.1 3.9 3.10 NP001 NP010"),
        ({"text": "no such words"}, ""),
        ({"text": "  "}, "3.1 3.9 3.10 NP001 NP010"),
        ({"text": "3.10"}, "3.10"),
        ({"difficulty": "B", "status": "open", "hours": 30}, "3.10"),
    ],
)
def test_filters(index: Index, filters: dict[str, Any], expected: str) -> None:
    assert [item["id"] for item in query(index, **filters)] == expected.split()


@pytest.mark.parametrize(
    ("filters", "hint"),
    [
        ({"difficulty": "E"}, "such as B-C"),
        ({"difficulty": "C-A"}, "such as B-C"),
        ({"difficulty": "A-B-C"}, "such as B-C"),
        ({"area": "algorithmic-problem-s"}, "algorithmic-problems"),
        ({"status": "opened"}, "open"),
        ({"compute": "laptp"}, "laptop"),
        ({"coding": "lots"}, "low"),
        ({"starter": "toylm"}, "toy-lm"),
        ({"starter": "algorithmic/modula"}, "algorithmic/modular"),
        ({"tags": ["groking"]}, "grokking"),
    ],
)
def test_unknown_filter_value_names_close_ones(index: Index, filters: dict[str, Any], hint: str) -> None:
    with pytest.raises(MihackError) as caught:
        query(index, **filters)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("number", ["3.10", " 3.10 ", "np001", "NP001"])
def test_find_ignores_case_and_spaces(index: Index, number: str) -> None:
    assert index.problem(number)["id"] == number.strip().upper()


def test_unknown_id_names_close_ones(index: Index) -> None:
    with pytest.raises(MihackError) as caught:
        index.problem("3.91")
    assert "3.9" in (caught.value.hint or "")
    assert index.close_ids("NP01")[0] in {"NP001", "NP010"}


def test_the_posts_number_leads_to_the_id(index: Index) -> None:
    assert index.close_ids("3.11")[0] == "3.10"


@pytest.mark.parametrize("term", ["attention", "Attention Pattern", "attention-pattern",
                                  "WHERE a head looks"])  # fmt: skip
def test_concepts_by_slug_term_and_alias(index: Index, term: str) -> None:
    assert index.concept(term) == ("attention", CONCEPT)


def test_unknown_concept_names_close_ones(index: Index) -> None:
    with pytest.raises(MihackError) as caught:
        index.concept("atention patern")
    assert "Attention pattern" in (caught.value.hint or "")


def test_natural_order() -> None:
    ids = ["NP10", "3.10", "X-2", "3.9", "10.1", "NP9", "3.9a", "3"]
    assert sorted(ids, key=natural) == ["3", "3.9", "3.9a", "3.10", "10.1", "NP9", "NP10", "X-2"]


@given(st.lists(st.from_regex(r"[A-Za-z]{1,3}[.-]?[0-9]{1,4}|[0-9]{1,2}\.[0-9]{1,3}", fullmatch=True)))
def test_natural_order_reads_numbers_as_numbers(ids: list[str]) -> None:
    """However an id is put together: its words compare as text, its numbers as numbers."""

    def parts(key: str) -> list[tuple[int, int, str]]:
        words = (part for part in re.findall(r"\d+|\D+", key) if part.strip(".-"))
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in words]

    assert sorted(ids, key=natural) == sorted(ids, key=parts)


def test_letters() -> None:
    assert [letters(text) for text in ("A", "B-C", "A-D")] == ["A", "BC", "ABCD"]


def test_a_layer_replaces_and_adds_in_natural_order(index: Index) -> None:
    ours = {"3.9": problem("3.9", title="Ours"), "3.2": problem("3.2")}
    index.lay_over({"problems": ours, "areas": {}}, dict)
    assert list(index.problems) == ["3.1", "3.2", "3.9", "3.10", "NP001", "NP010"]
    assert index.problems["3.9"]["title"] == "Ours"


def test_the_reader_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import mihack.catalog.query, click as _;"
        "from mihack.catalog.index import load; load();"
        "print(*(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    heavy = {"pydantic", "yaml", "markdown_it", "jinja2", "cookiecutter", "rich", "torch",
             "hashlib", "difflib", "dataclasses"}  # fmt: skip
    assert loaded & heavy <= {"dataclasses"}
