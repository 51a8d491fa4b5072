"""Two runs side by side, or several seeds of two settings: which knobs differ, and what came of it.

    python -m lab.comparison results/20260301-101500-seed0 results/20260301-102000-seed0
    python -m lab.comparison --a results/wide-seed* --b results/narrow-seed*
    python -m lab.comparison results/wide results/narrow       folders of runs (made with --out)

With several runs on both sides each metric has its mean and spread (standard deviation over the
runs), and the last column says whether the means differ by more than two single runs would by chance
alone: |B - A| > sqrt(spread A^2 + spread B^2).  That is a rule of thumb, not a test of significance.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME, NUMBER = 24, 18  # widths of the table's columns
FILES = {"metrics": "metrics", "config": "knobs", "environment": "packages"}  # file: a mapping it has

Pair = tuple[str, str]


class NotComparable(Exception):
    """What is wrong with the runs given, and what to do about it."""


@dataclass(frozen=True)
class Side:
    """A metric over the runs of one side.  ``missing``: runs without it, or with NaN or infinity."""

    mean: float | None
    spread: float | None  # standard deviation over the runs; None for fewer than two
    runs: int
    missing: int

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        if self.spread is None:
            return f"{self.mean:.4g}"
        text = f"{self.mean:.3g} ± {self.spread:.1g}"
        # a number is never cut off: one digit less fits any column
        return text if len(text) <= NUMBER else f"{self.mean:.2g} ± {self.spread:.1g}"


@dataclass(frozen=True)
class Row:
    """A metric on both sides."""

    metric: str
    a: Side
    b: Side
    difference: float | None  # B - A, of the means
    beyond_spread: bool | None  # None where a side has no spread


@dataclass(frozen=True)
class Comparison:
    """What differs between two sides, each of one or more runs."""

    a: list[str]
    b: list[str]
    knobs: dict[str, Pair]
    environment: dict[str, Pair]
    metrics: list[Row]

    def __str__(self) -> str:
        return table(self)


def compare_runs(a: Path | str | Sequence[Path | str], b: Path | str | Sequence[Path | str]) -> Comparison:
    """Compare a run with another, or several with several.

    Each side is a run's folder, a folder of runs, a glob, or a list of these.  Raises NotComparable if
    one is missing, unfinished or broken, or if the runs are of different experiments.
    """
    one, two = (run_folders([side] if isinstance(side, Path | str) else side) for side in (a, b))
    metrics, configs, places = (
        [[read_json(folder / f"{name}.json", part) for folder in side] for side in (one, two)]
        for name, part in FILES.items()
    )
    _one_experiment([one, two], metrics)
    ours, theirs = ([report["metrics"] for report in side] for side in metrics)
    knobs_a, knobs_b = ([config["knobs"] for config in side] for side in configs)
    place_a, place_b = ([_flat(place) for place in side] for side in places)
    names = dict.fromkeys(name for run in [*ours, *theirs] for name in run)
    return Comparison(
        a=[str(folder) for folder in one],
        b=[str(folder) for folder in two],
        knobs=_differing(knobs_a, knobs_b),
        environment=_differing(place_a, place_b),
        metrics=[_row(name, [r.get(name) for r in ours], [r.get(name) for r in theirs]) for name in names],
    )


def run_folders(given: Sequence[Path | str]) -> list[Path]:
    """The runs that are meant: folders with a metrics.json, those inside the folders, or a glob's."""
    found: list[Path] = []
    for item in given:
        # a folder's own name may hold what a glob takes for a pattern
        # and Path.glob takes no absolute pattern
        matching = sorted(glob.glob(str(item)))  # noqa: PTH207
        places = [Path(item)] if Path(item).exists() else [Path(path) for path in matching]
        if not places:
            raise NotComparable(f"{item}: there is no such run. Those that there are: ls results")
        for place in places:
            inside = [place] if (place / "config.json").exists() else _runs_in(place)
            if not inside:
                raise NotComparable(f"{place}: not a run's folder, and no runs in it (no config.json)")
            found += inside
    return list(dict.fromkeys(found))


def _runs_in(place: Path) -> list[Path]:
    return sorted(path.parent for path in place.glob("*/config.json"))


def read_json(path: Path, part: str) -> dict[str, Any]:
    """A run's file, with a mapping ``part``.  Raises NotComparable, with file and line, if it is not."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        why = "the run did not finish" if path.name == "metrics.json" else "the run is not complete"
        raise NotComparable(f"{path}: missing, {why}. Run it again, or leave it out") from None
    except json.JSONDecodeError as error:
        told = f"{path}:{error.lineno}: not JSON ({error.msg}). Run it again, or leave it out"
        raise NotComparable(told) from None
    except (OSError, UnicodeDecodeError) as error:
        raise NotComparable(f"{path}: cannot be read ({error}). Run it again, or leave it out") from None
    if not isinstance(data, dict) or not isinstance(data.get(part), dict):
        raise NotComparable(f"{path}:1: no mapping {part!r} in it: not a run's file. Leave it out")
    return data


def _one_experiment(folders: Sequence[list[Path]], metrics: Sequence[list[dict[str, Any]]]) -> None:
    named = {
        str(report.get("experiment")): folder
        for side, reports in zip(folders, metrics, strict=True)
        for folder, report in zip(side, reports, strict=True)
    }
    if len(named) > 1:
        (one, here), (two, there), *_ = named.items()
        raise NotComparable(
            f"{here} is of the experiment {one}, {there} of {two}: compare runs of one experiment"
        )


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _differing(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, Pair]:
    """What does not have the same values on both sides; seeds 0, 1 and 2 on both do not differ."""
    names = dict.fromkeys(name for run in [*a, *b] for name in run)
    sides = {name: (_values(a, name), _values(b, name)) for name in names}
    return {name: pair for name, pair in sides.items() if pair[0] != pair[1]}


def _values(runs: list[dict[str, Any]], name: str) -> str:
    shown = {str(run[name]) if name in run else "-" for run in runs}
    return ", ".join(sorted(shown, key=lambda text: (len(text), text)))


def _row(name: str, a: list[Any], b: list[Any]) -> Row:
    one, two = _side(a), _side(b)
    if one.mean is None or two.mean is None:
        return Row(name, one, two, None, None)
    difference = two.mean - one.mean
    if one.spread is None or two.spread is None:
        return Row(name, one, two, difference, None)
    return Row(name, one, two, difference, abs(difference) > math.hypot(one.spread, two.spread))


def _side(values: list[Any]) -> Side:
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    missing = len(values) - len(numbers)
    mean = statistics.mean(numbers) if numbers else None
    return Side(mean, statistics.stdev(numbers) if len(numbers) > 1 else None, len(values), missing)


def table(found: Comparison) -> str:
    """A comparison as text that fits 80 columns."""
    lines = [_line(side, _named(runs)) for side, runs in (("A", found.a), ("B", found.b))]
    for title, pairs in (("Knobs", found.knobs), ("Environment", found.environment)):
        lines += (
            ["", f"{title}: no difference"] if not pairs else ["", _columns(f"{title} that differ", "A", "B")]
        )
        lines += [_columns(name, *pair) for name, pair in pairs.items()]
    several = any(row.beyond_spread is not None for row in found.metrics)
    last = "beyond" if several else ""
    lines += ["", _columns("Metric", "A", "B", "B - A", last).rstrip(), "-" * 79]
    for row in found.metrics:
        difference = "-" if row.difference is None else f"{row.difference:+.3g}"
        beyond = {True: "yes", False: "no", None: ""}[row.beyond_spread]
        lines.append(_columns(row.metric, str(row.a), str(row.b), difference, beyond).rstrip())
    lines += [note for row in found.metrics for note in _missing(row)]
    if several:
        lines += ["-" * 79, "mean ± standard deviation over runs; beyond: |B - A| > sqrt(sd A^2 + sd B^2)"]
    return "\n".join(lines)


def _missing(row: Row) -> list[str]:
    return [
        f"{_fit(row.metric, NAME)} is missing in {side.missing} of {side.runs} runs of {name}"
        for name, side in (("A", row.a), ("B", row.b))
        if side.missing
    ]


def _named(runs: list[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{len(runs)} runs, {runs[0]} to {Path(runs[-1]).name}"


def _line(name: str, text: str) -> str:
    return f"{name}  {_fit(text, 76, end=True)}"


def _columns(name: str, a: str, b: str, difference: str = "", beyond: str = "") -> str:
    cells = f"{_fit(name, NAME):{NAME}} {_fit(a, NUMBER):>{NUMBER}} {_fit(b, NUMBER):>{NUMBER}}"
    return f"{cells} {difference:>9} {beyond:>6}" if difference else cells


def _fit(text: str, width: int, end: bool = False) -> str:
    """``text`` on one line and no wider; of a path the end is kept, which tells runs apart."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    return "…" + text[-width + 1 :] if end else text[: width - 1] + "…"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 done, 1 with a message that says what to do, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="two: A and B")
    parser.add_argument("--a", nargs="+", metavar="RUN", default=[], help="the runs of side A")
    parser.add_argument("--b", nargs="+", metavar="RUN", default=[], help="the runs of side B")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    flags = parser.parse_args(arguments)
    a, b = (flags.a, flags.b) if not flags.runs else (flags.runs[:1], flags.runs[1:])
    if (flags.runs and (flags.a or flags.b or len(flags.runs) != 2)) or not (a and b):
        parser.error("give two runs, or --a RUN ... --b RUN ...")
    try:
        found = compare_runs(a, b)
    except NotComparable as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(found), indent=2) if flags.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
