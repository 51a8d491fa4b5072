"""A small valid catalogue to break in tests, written out so that its lines can be counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CARD = """\
---
id: "X-1"
post_id: null
title: Sort two numbers
area: demo
subarea: First steps
difficulty: A
difficulty_basis: posted
starred: false
status: partly answered
reviewed: 2026-01-31
works:
  - work: someone-2020-sorting
    bearing: Settles the case of two numbers.
remains: Three numbers.
hours: [2, 6]
compute: laptop
coding: low
concepts: [attention]
models: [a 1-layer transformer]
resources: [a-demo]
related: []
tags: [sorting]
starter:
  name: toys
  parameters: {task: sort, variable_length: true}
sources:
  - label: Where it was posed
    url: https://example.org/post
---

## Problem

Sort.

## Why it matters

It is small.

## First steps

Begin.

## Going further

Go on.

## Prior work

Someone did two.
"""

AREA = """\
---
title: Demo problems
summary: Problems for tests.
order: 1
coding: low
post: https://example.org/area
---

## What it is

One.

## Why it suits a hackathon

Two.

## What to understand first

Three.

## Typical mistakes

Four.

## Where to start

Five.
"""

CONCEPT = """\
---
term: Attention
aliases: [attending]
summary: Where a head looks.
see_also: []
links:
  - {label: A page, url: "https://example.org/attention"}
---
"""

RESOURCES = """\
a-demo:
  title: A demo
  kind: demo
  by: Someone
  year: 2020
  url: https://example.org/demo
  what_for: To see it done.
  minutes: null
  works_on_tl4: yes
"""

WORKS = """\
someone-2020-sorting:
  authors: Someone et al.
  year: 2020
  title: Sorting
  arxiv: "2001.00001"
  confirmed: false
"""

FILES = {
    "areas/demo.md": AREA,
    "concepts/attention.md": CONCEPT,
    "problems/demo/X-1-sort-two.md": CARD,
    "resources.yaml": RESOURCES,
    "works.yaml": WORKS,
}

# What the shipped index gives to a user's folder: here, one starter and nothing else.
BASE: dict[str, Any] = {
    "starters": {
        "toys": {
            "selector": "task",
            "experiments": {
                "sort": {
                    "knobs": {
                        "variable_length": {"choices": None, "default": False},
                        "length": {"min": 2, "max": 20, "default": 5},
                        "order": {"choices": ["up", "down"], "default": "up"},
                    }
                }
            },
        }
    }
}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write ``files`` (relative path -> content) below ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def changed(text: str, *changes: tuple[str, str]) -> str:
    """``text`` with each (old, new) replaced; an old that is not there exactly once is a slip."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text
