"""Forty things that somebody might type, written down before the search was tried on them.

Each names cards of which one ought to be among the first five.  The ranking was not tuned on them.
Two answers named cards about something else and were corrected once all cards could be read.
"""

from __future__ import annotations

from mihack.catalog.index import load
from mihack.catalog.search import search

QUERIES = {
    "sorting": "3.1 3.2",
    "IOI in other models": "2.18 2.22 5.35 3.19",
    "superposition with correlated features": "4.2 4.16 4.26",
    "neurons about code": "9.1 9.17 9.2 1.4",
    "grokking phase change": "5.4 5.7 5.3 3.3",
    "modular addition": "3.3 3.23 3.4",
    "fibonacci sequence": "3.7",
    "how do models add numbers": "2.37 3.8 5.29",
    "balanced brackets": "3.17 2.14",
    "othello": "3.20 3.30 3.31 3.32 3.33",
    "induction heads": "3.16 2.11 2.29 2.1 6.20",
    "induction heads during training": "5.8 5.9 5.20 5.21 5.24 5.25",
    "double descent": "3.29",
    "lottery tickets": "3.28 5.9 5.10 5.11 5.12 5.13",
    "backup name mover dropout": "2.24 2.25",
    "duplicate token heads": "2.21",
    "acronyms": "2.4",
    "gendered pronouns": "2.12",
    "factual recall": "2.7",
    "few-shot learning": "2.36 5.29",
    "memorised text": "2.10 3.24",
    "SoLU versus GELU": "1.16 4.35 4.36 4.37 4.38 9.43",
    "privileged basis": "4.30 4.14",
    "toy model of superposition with dropout": "4.1",
    "adversarial examples and superposition": "4.33",  # corrected
    "sparse features dimensions geometry": "4.17 4.12 4.26 4.4",
    "CLIP multimodal neurons": "7.11 7.13 7.12",
    "vision transformer": "7.2",
    "diffusion models": "7.16 7.17 7.18",
    "curve detectors": "7.5 7.6 7.4 7.7",
    "decision transformer": "8.9 8.10 8.11",
    "goal misgeneralisation": "8.5 8.6 8.7",
    "AlphaZero chess": "8.1 8.2 8.3 8.4",
    "RLHF reward model": "8.11 8.12 8.13 8.14",
    "gridworld agent": "8.16 8.7",
    "neurons for languages such as French": "9.23",  # corrected
    "composition scores": "1.9 1.10 1.11",
    "explain a neuron with a regular expression": "1.8 9.9",
    "fine-tuning and circuits": "5.14 5.15 5.16 5.17 5.18 5.19",
    "translation heads": "2.34",
}


def test_at_least_36_of_40_are_among_the_first_five() -> None:
    index = load()
    missed = {
        words: found
        for words, wanted in QUERIES.items()
        if not set(found := [hit.key for hit in search(index, words, kept=False)[0]][:5]) & {*wanted.split()}
    }
    assert len(QUERIES) == 40
    assert len(missed) <= 4, missed
