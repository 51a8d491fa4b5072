"""What ten thousand cards cost: `list` and `search` against small catalogues, and the build.

    python benchmarks/scale.py [--cards 10000] [--rounds 9]

Generates a catalogue folder from a fixed seed, lays it over the shipped one with --catalog, and
prints ratios: `list` with it over `list` with the shipped catalogue alone and with 400 generated
cards, and the build's time per card at several sizes over that at the smallest.  Search has a bar
in milliseconds, so its time is printed too.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = 400
TEXT = (
    "attention head neuron residual stream circuit feature probe patch logit lens token position "
    "gradient sparse dictionary induction copy sort modular addition parity bracket world model "
    "board maze reward policy image curve edge texture language translation code number date name "
    "pronoun verb subject gender colour city fact recall refusal steering vector ablation mean "
    "resample cache layer norm embedding frequency phase checkpoint loss grokking seed width depth"
)
WORDS = TEXT.split()
CARD = """\
---
id: "X-{n}"
title: "{title}"
area: algorithmic-problems
subarea: Generated
difficulty: {difficulty}
difficulty_basis: posted
status: unknown
reviewed: 2026-11-23
works: []
remains: "{remains}"
hours: [2, {hours}]
compute: laptop
coding: low
concepts: [attention-head]
models: [a small transformer]
tags: [generated, {tag}]
starter: null
sources:
  - label: Generated for a measurement
    url: https://example.org/generated
---

## Problem

{problem}

## Why it matters

{why}

## First steps

1. {steps}
2. {more}

**A weekend's result:** {result}

## Going further

- {further}

## Prior work

{prior}
"""


def sentence(rng: random.Random, words: int) -> str:
    """Words in a random order, with a capital and a full stop."""
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def write_cards(folder: Path, cards: int) -> None:
    """A catalogue of ``cards`` problems, about as long as half of one of ours each."""
    rng = random.Random(0)
    place = folder / "problems" / "algorithmic-problems"
    place.mkdir(parents=True)
    for n in range(1, cards + 1):
        texts = {name: sentence(rng, 40) for name in ("problem", "why", "steps", "more", "result", "prior")}
        card = CARD.format(
            n=n,
            title=sentence(rng, 7).rstrip("."),
            difficulty=rng.choice("ABCD"),
            hours=rng.randint(4, 40),
            tag=rng.choice(WORDS),
            remains=sentence(rng, 12),
            further=sentence(rng, 20),
            **texts,
        )
        (place / f"X-{n}-generated.md").write_text(card, encoding="utf-8")


def seconds(command: list[str], home: Path) -> float:
    """Wall time of one run, its output read and thrown away."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop("MIHACK_CATALOG", None)
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cards", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    mihack = [sys.executable, "-m", "mihack"]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sizes = [options.cards * part // 8 for part in (1, 2, 4, 8)]
        print("| cards | build, time per card |\n|---|---|")
        first = 0.0
        for size in sizes:
            write_cards(root / f"c{size}", size)
            code = (
                "import sys; from pathlib import Path; from mihack.catalog.build import build, halves;"
                "from mihack.catalog.check import check_folder;"
                f"halves(build(check_folder(Path({str(root / f'c{size}')!r}))))"
            )
            per_card = seconds([sys.executable, "-c", code], root / "home") / size
            first = first or per_card
            print(f"| {size} | {per_card / first:.2f}x |", flush=True)
        over = ["--catalog", str(root / f"c{sizes[-1]}")]
        write_cards(root / "small", SMALL)
        small = ["--catalog", str(root / "small")]
        time.sleep(3)  # so that the files are older than a clock's tick
        rows = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "mihack list": [*mihack, "list"],
            f"mihack list, {SMALL} more": [*mihack, "list", *small],
            f"mihack list, {options.cards} more": [*mihack, "list", *over],
            "mihack list --difficulty A --ids, the same": [
                *mihack,
                "list",
                "--difficulty",
                "A",
                "--ids",
                *over,
            ],
            "mihack search": [*mihack, "search", "induction heads"],
            f"mihack search, {options.cards} more": [*mihack, "search", "induction heads", *over],
        }
        for command in rows.values():
            for _ in range(2):
                seconds(command, root / "home")  # fills the cache
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, command in rows.items():
                times[name].append(seconds(command, root / "home"))
    median = {name: statistics.median(values) for name, values in times.items()}
    alone, few = median["mihack list"], median[f"mihack list, {SMALL} more"]
    print(f"\n| command | over `list` alone | over `list` with {SMALL} | ms |\n|---|---|---|---|")
    for name, value in median.items():
        print(f"| `{name}` | {value / alone:.2f}x | {value / few:.2f}x | {1000 * value:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
