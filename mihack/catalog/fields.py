"""The small types that cards are made of: slugs, ids, one-line text, addresses, dates.

Each type is a string with one rule, and the rule's message says what would be right.  The same rule
is repeated as a JSON Schema keyword where one exists, so that editors can show it while typing.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

LETTERS = "ABCD"
SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"
PROBLEM_ID = r"(?=.*[0-9])[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*"
KNOB = r"[a-z][a-z0-9_]*"
METRIC = r"[A-Za-z][A-Za-z0-9_.]*"
DIFFICULTY = r"[A-D](?:-[A-D])?"
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
MOMENT = DATE + r"T[0-9]{2}:[0-9]{2}(?:[+-][0-9]{2}:[0-9]{2})?"
ARXIV = r"(?:[0-9]{4}\.[0-9]{4,5}|[a-z-]+(?:\.[A-Z]{2})?/[0-9]{7})"
DOI = r"10\.[0-9]{4,9}/[^\s<>\"]+"
# Windows opens a device, not a file, for these names, whatever their extension.
RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}


def bad_characters(text: str, allowed: str = "") -> list[str]:
    """The control, separator and unpaired-surrogate characters of ``text``, as ``U+0007``.

    Right-to-left text and its marks (category Cf) are legitimate and stay.
    """
    return [
        f"U+{ord(c):04X}"
        for c in text
        if c not in allowed and unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}
    ]


def _one_line(text: str) -> str:
    if bad := bad_characters(text):
        raise ValueError(f"has a control character ({bad[0]}); it must be one plain line of text")
    return text


def _paragraphs(text: str) -> str:
    if bad := bad_characters(text, "\n\t"):
        raise ValueError(f"has a control character ({bad[0]}); only line breaks are allowed")
    return text


def _not_reserved(text: str) -> None:
    if text.split(".")[0].lower() in RESERVED:
        raise ValueError(f"{text!r} is a device name on Windows; choose another")


def _slug(text: str) -> str:
    if not re.fullmatch(SLUG, text):
        raise ValueError(f"{text!r} is not a slug: small letters and digits joined by single hyphens")
    _not_reserved(text)
    return text


def _problem_id(text: str) -> str:
    if not re.fullmatch(PROBLEM_ID, text):
        raise ValueError(
            f"{text!r} is not an id: ASCII letters and digits, at least one digit, "
            'parts joined by "." or "-", such as 3.1, NP001 or X-12'
        )
    _not_reserved(text)
    return text


def _url(text: str) -> str:
    if re.search(r"[\s<>\"\\^`{|}]", text) or bad_characters(text):
        raise ValueError(f"{text!r} has a character that an address cannot have; percent-encode it")
    try:
        parts = urlsplit(text)
        host, user = parts.hostname, parts.username
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError(f"{text!r} is not a full http:// or https:// address")
    if user is not None:
        raise ValueError(f"{text!r} carries a user name; leave out what stands before @")
    return text


def _difficulty(text: str) -> str:
    if not re.fullmatch(DIFFICULTY, text):
        raise ValueError(f"{text!r} is not a difficulty: a letter A to D, or a range such as B-C")
    if len(text) == 3 and not text[0] < text[2]:
        raise ValueError(f"{text!r} is not a range: the easier letter comes first, such as B-C")
    return text


def _date(text: str) -> str:
    try:
        if not re.fullmatch(DATE, text):
            raise ValueError
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date of the form YYYY-MM-DD") from None
    return text


def _moment(text: str) -> str:
    try:
        if not re.fullmatch(MOMENT, text):
            raise ValueError
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time such as 2026-12-06T16:00 or 2026-12-06T16:00+01:00"
        ) from None
    return text


def _matching(pattern: str, what: str) -> AfterValidator:
    def rule(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return AfterValidator(rule)


def _low_high(pair: list[int | float]) -> list[int | float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair} is not [low, high]: the smaller number comes first")
    return pair


def _distinct(items: list[Any]) -> list[Any]:
    seen: list[Any] = []
    for item in items:
        if item in seen:
            raise ValueError(f"names {item!r} twice; once is enough")
        seen.append(item)
    return items


def _pattern(pattern: str) -> Any:
    return Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


OneLine = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=300),
    AfterValidator(_one_line),
]
Paragraph = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1500),
    AfterValidator(_paragraphs),
]
Markdown = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=6000),
    AfterValidator(_paragraphs),
]
Slug = Annotated[str, StringConstraints(max_length=64), AfterValidator(_slug), _pattern(SLUG)]
ProblemId = Annotated[
    str, StringConstraints(max_length=32), AfterValidator(_problem_id), _pattern(PROBLEM_ID)
]
KnobName = Annotated[
    str,
    StringConstraints(max_length=40),
    _matching(KNOB, "a knob name: small letters, digits and underscores"),
    _pattern(KNOB),
]
MetricName = Annotated[
    str,
    StringConstraints(max_length=80),
    _matching(METRIC, "a metric name: letters, digits, underscores and dots"),
    _pattern(METRIC),
]
Url = Annotated[
    str,
    StringConstraints(max_length=500),
    AfterValidator(_url),
    Field(json_schema_extra={"format": "uri", "pattern": "^https?://"}),
]
Difficulty = Annotated[str, AfterValidator(_difficulty), _pattern(DIFFICULTY)]
Day = Annotated[str, AfterValidator(_date), _pattern(DATE)]
Moment = Annotated[str, AfterValidator(_moment), _pattern(MOMENT)]
Arxiv = Annotated[str, _matching(ARXIV, "an arXiv number such as 2209.11895 (no version)"), _pattern(ARXIV)]
Doi = Annotated[str, _matching(DOI, "a DOI such as 10.1000/182"), _pattern(DOI)]
Hours = Annotated[
    list[Annotated[int | float, Field(gt=0, le=10000)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_low_high),
]
Letter = Literal["A", "B", "C", "D"]
Coding = Literal["low", "some", "high"]
Compute = Literal["laptop", "free-gpu", "gpu", "cluster"]
Status = Literal["open", "partly answered", "largely answered", "unknown"]
Basis = Literal["posted", "community", "recalled", "estimated"]
Scalar = bool | int | float | str
Distinct = AfterValidator(_distinct)
Year = Annotated[int, Field(ge=1800, le=2100)]
