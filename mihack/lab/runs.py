"""Finished runs read back from results/: which belong together, what they found, how far seeds disagree.

Without torch, so that a report of a run takes no longer than reading its files.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .comparison import NotComparable, read_json, run_folders

_STAMP = re.compile(r"\d{8}-\d{6}")
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"}


@dataclass(frozen=True)
class Finished:
    """A run that ended, as its three files have it."""

    folder: Path
    report: Mapping[str, Any]  # metrics.json
    knobs: Mapping[str, Any]
    environment: Mapping[str, Any]
    code: str | None  # sha256 of the experiment.py that made it; None for notebooks and old runs

    @property
    def seed(self) -> Any:
        """The knob SEED, or 0 where there is none."""
        return self.knobs.get("SEED", 0)

    @property
    def stamp(self) -> str:
        """When it began, as 20260301-101500: from the folder's name, else from its files."""
        found = _STAMP.match(self.folder.name)
        written = time.localtime((self.folder / "metrics.json").stat().st_mtime)
        return found[0] if found else time.strftime("%Y%m%d-%H%M%S", written)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The expectations with what was found."""
        rows = self.report.get("rows", [])
        return [row for row in rows if isinstance(row, dict) and "metric" in row]

    @property
    def figures(self) -> list[Path]:
        """Its pictures, by name."""
        inside = sorted((self.folder / "figures").glob("*"))
        return [path for path in inside if path.suffix.lower() in PICTURES and path.is_file()]


@dataclass(frozen=True)
class Measured:
    """One metric over several runs, in their order; None stands for NaN, infinity or a missing one."""

    metric: str
    label: str
    row: Mapping[str, Any]  # the expectation; empty for a number that nobody expected anything of
    values: list[float | None]
    met: list[bool]

    @property
    def spread(self) -> str:
        """Mean and standard deviation over the runs, where at least two have it."""
        numbers = [value for value in self.values if value is not None]
        if len(numbers) < 2:
            return "-"
        return f"{statistics.mean(numbers):.4g} ± {statistics.stdev(numbers):.2g}"


def read_run(folder: Path) -> Finished:
    """The run in ``folder``.  Raises NotComparable, with file and line, if it is unfinished or broken."""
    config = read_json(folder / "config.json", "knobs")
    environment = read_json(folder / "environment.json", "packages")
    report = read_json(folder / "metrics.json", "metrics")
    code = config.get("code")
    return Finished(folder, report, config["knobs"], environment, code if isinstance(code, str) else None)


def runs_in(place: Path) -> tuple[list[Finished], list[str]]:
    """The finished runs in a folder such as results/, oldest first, and what is wrong with the others."""
    finished, faults = [], []
    for path in sorted(place.glob("**/config.json")):
        try:
            finished.append(read_run(path.parent))
        except NotComparable as fault:
            faults.append(str(fault))
    return sorted(finished, key=lambda run: (run.stamp, run.folder)), faults


def latest(runs: Sequence[Finished]) -> list[Finished]:
    """The newest run and those that differ from it in the seed alone: the newest of each seed."""
    if not runs:
        return []
    newest = runs[-1]
    same = [run for run in runs if _settings(run) == _settings(newest)]
    by_seed = {str(run.seed): run for run in same}
    return sorted(by_seed.values(), key=lambda run: (len(str(run.seed)), str(run.seed)))


def named(folders: Sequence[Path | str]) -> list[Finished]:
    """The runs that somebody names: folders, folders of runs, or globs."""
    return [read_run(folder) for folder in run_folders(folders)]


def _settings(run: Finished) -> tuple[Any, dict[str, Any]]:
    knobs = {name: value for name, value in run.knobs.items() if name != "SEED"}
    return run.report.get("experiment"), knobs


def code_hash(script: Path) -> str | None:
    """The SHA-256 of a script's text, whatever its line ends; None if there is no such file."""
    try:
        return hashlib.sha256(script.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    except OSError:
        return None


def older_than(run: Finished, script: Path) -> bool:
    """Whether ``script`` has changed since the run: by the hash that it kept, else by the files' times."""
    if run.code is not None:
        return run.code != code_hash(script)
    written = (run.folder / "metrics.json").stat().st_mtime
    return script.is_file() and script.stat().st_mtime > written


def expected_metrics(runs: Sequence[Finished]) -> list[Measured]:
    """Every expectation of the runs with what each found, in the order of expected.json."""
    rows = {str(row["metric"]): row for run in reversed(runs) for row in run.rows}
    return [
        Measured(name, str(row.get("label", name)), row, _values(runs, name), _met(runs, name))
        for name, row in rows.items()
    ]


def other_metrics(runs: Sequence[Finished]) -> list[Measured]:
    """The numbers that no expectation names."""
    rows = {str(row["metric"]) for run in runs for row in run.rows}
    names = dict.fromkeys(name for run in runs for name in run.report["metrics"] if name not in rows)
    return [Measured(name, name, {}, _values(runs, name), []) for name in names]


def _values(runs: Sequence[Finished], name: str) -> list[float | None]:
    found = [run.report["metrics"].get(name) for run in runs]
    return [
        float(v) if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) else None
        for v in found
    ]


def _met(runs: Sequence[Finished], name: str) -> list[bool]:
    return [any(row["metric"] == name and row.get("met") is True for row in run.rows) for run in runs]


def changed_knobs(run: Finished, original: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs of the run, but for the seed, that are not those of expected.json: name -> the original."""
    return {
        name: original[name]
        for name, value in run.knobs.items()
        if name != "SEED" and name in original and original[name] != value
    }


def bound(row: Mapping[str, Any]) -> str:
    """The row's expectation in words: ``at least 0.99``."""
    if "between" in row:
        return f"{row['between'][0]:.4g} to {row['between'][1]:.4g}"
    if "at_least" in row:
        return f"at least {row['at_least']:.4g}"
    return f"at most {row['at_most']:.4g}"
