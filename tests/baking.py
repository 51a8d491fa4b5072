"""A tiny problem and experiment for tests of the scaffold, with any text a test wants in the card."""

from __future__ import annotations

from typing import Any

import pytest

from mihack.catalog.index import Index
from mihack.scaffold import experiment, plan

SCRIPT = '''\
"""Counting: the smallest experiment there is.

    python experiment.py
"""

# %% [markdown]
# ## Counting
#
# The sum of the first `n` numbers is `n (n + 1) / 2`.

# %%
from lab.results import start_run

# %% knobs
SEED = 0  # not used
N = 10  # how far to count
WORD = "ten"  # any text
SHARE = 0.5  # of the numbers
LOUD = False  # print the sum

# %%
run = start_run(globals())


# %%
def total(n):
    return sum(range(n + 1))


metrics = {"total": float(total(N))}
if LOUD:
    print(WORD, metrics["total"])
report = run.finish(metrics)
'''

ABOUT: dict[str, Any] = {
    "title": "Counting",
    "summary": "Add the first numbers.",
    "knobs": {
        "n": {"help": "how far to count", "choices": None, "min": 1, "max": 1000},
        "word": {"help": "any text", "choices": None, "min": None, "max": None},
        "share": {"help": "of the numbers", "choices": None, "min": 0, "max": 1},
        "loud": {"help": "print the sum", "choices": None, "min": None, "max": None},
    },
    "seconds": 1,
    "lab": ["knobs", "results"],
    "expected": [
        {"metric": "total", "label": "Sum", "at_least": 55, "why": "Gauss", "when": {"n": 10}},
        {"metric": "total", "label": "Sum", "at_least": 210, "when": {"n": 20}},
    ],
    "look_at": "There is **no** figure.",
    "next": ["Count further."],
    "references": ["gauss-1784"],
}

WORKS = {
    "gauss-1784": {
        "authors": "Gauss",
        "year": 1784,
        "title": "A sum",
        "url": "https://example.org/a",
        "confirmed": True,
    }
}
SLATE = {"title": "A slate", "url": "https://example.org/s", "what_for": "Write on it."}


def problem(**changes: Any) -> dict[str, Any]:
    """A card as the index holds it."""
    card: dict[str, Any] = {
        "id": "9.1",
        "post_id": "9.1",
        "title": "Count to ten",
        "file": "problems/counting/9.1-count-to-ten.md",
        "difficulty": "A",
        "difficulty_basis": "estimated",
        "status": "open",
        "reviewed": "2026-11-23",
        "remains": "Nothing.",
        "hours": [1, 2],
        "compute": "laptop",
        "works": [{"work": "gauss-1784", "bearing": "Found the closed form."}],
        "concepts": ["sum"],
        "resources": ["slate"],
        "starter": {"name": "tiny", "parameters": {"task": "count"}},
        "sources": [{"label": "A list", "url": "https://example.org/list"}],
        "sections": {
            "problem": "How far can one count?\n\nAnd why?",
            "why": "Because.",
            "first_steps": "1. One.",
            "further": "Two.",
            "prior_work": "Gauss.",
        },
    }
    return {**card, **changes}


def index(*problems: dict[str, Any], about: dict[str, Any] | None = None) -> Index:
    """An index of the given problems and the tiny starter, whose experiment says ``about`` as well."""
    return Index(
        {
            "problems": {card["id"]: card for card in problems},
            "areas": {},
            "concepts": {"sum": {"term": "sum", "summary": "What adding gives."}},
            "resources": {"slate": SLATE},
            "works": WORKS,
            "starters": {
                "tiny": {
                    "selector": "task",
                    "needs": ["scikit-learn>=1.5,<2"],
                    "experiments": {"count": {**ABOUT, **(about or {})}},
                }
            },
        }
    )


def bake(
    card: dict[str, Any] | None = None, about: dict[str, Any] | None = None, **answers: Any
) -> dict[str, bytes]:
    """The plan for a card."""
    card = card or problem()
    return plan.plan(card, plan.Answers(**answers), index(card, about=about))


@pytest.fixture(autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the starter ``tiny`` exist, with a GPU check that takes no time."""
    path = tmp_path_factory.mktemp("starters") / "count.py"
    path.write_text(SCRIPT, encoding="utf-8")
    real = experiment.experiment_path
    monkeypatch.setattr(experiment, "experiment_path", lambda s, n: path if s == "tiny" else real(s, n))
    monkeypatch.setattr(plan, "check_gpu", lambda: b'print("ready")\n')
