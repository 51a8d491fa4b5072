"""The runs in results/ of a generated repo, read as data: what each found, with which knobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST = 5_000_000  # bytes; a longer metrics.json is not one of ours


@dataclass(frozen=True)
class FinishedRun:
    """One folder of results/ with its numbers.  ``rows`` are those of expected.json, each with ``met``."""

    name: str
    knobs: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    figures: tuple[Path, ...]
    finished: float  # seconds since 1970: when its metrics.json was written

    @property
    def seed(self) -> Any:
        """Its SEED knob; None without one."""
        return self.knobs.get("SEED")

    @property
    def setting(self) -> str:
        """Its knobs but for the seed, as text: runs with the same one differ by chance alone."""
        return json.dumps({name: self.knobs[name] for name in sorted(self.knobs) if name != "SEED"})

    def met(self, word: str = "") -> tuple[int, int]:
        """(met, all) of the rows whose label has ``word`` in it."""
        rows = [row for row in self.rows if word in str(row.get("label", "")).lower()]
        return sum(row.get("met") is True for row in rows), len(rows)


def read_runs(root: Path) -> tuple[list[FinishedRun], list[str]]:
    """The runs that came to their end, oldest first, and the names of folders that cannot be read.

    A folder without metrics.json is a run that was stopped, and in neither list.
    """
    runs, broken = [], []
    for path in sorted(root.glob("results/*/metrics.json")):
        try:
            runs.append(_read(path))
        except (OSError, ValueError, TypeError, KeyError):
            broken.append(path.parent.name)
    return sorted(runs, key=lambda run: (run.finished, run.name)), broken


def _read(path: Path) -> FinishedRun:
    metrics, config = _json(path), _json(path.with_name("config.json"))
    rows = tuple(dict(row) for row in metrics.get("rows", []))
    figures = tuple(sorted(path.parent.glob("figures/*.png")))
    return FinishedRun(path.parent.name, dict(config["knobs"]), rows, figures, path.stat().st_mtime)


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is too long")
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("knobs", {}), dict):
        raise TypeError(f"{path} holds no mapping")
    return loaded
