"""One folder per run: what was found beside what was expected, and how to get it again.

results/<time>-seed<seed>/
    metrics.json       every figure, each with its expectation and whether it was met
    config.json        the knobs of this run
    environment.json   versions, device, threads
    figures/*.png

Two runs side by side: ``python -m lab.comparison RUN_A RUN_B``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from matplotlib.figure import Figure

from .knobs import Knob, apply_flags, in_notebook, parse_flags, read_knobs
from .runs import bound, code_hash

PACKAGES = ("torch", "transformer-lens", "transformers", "numpy", "matplotlib")


@dataclass
class Run:
    """A run in progress: its device, its folder, and what it expects to find."""

    device: torch.device
    folder: Path
    knobs: dict[str, Knob]
    expected: dict[str, Any]
    check: bool
    started: float = field(default_factory=time.perf_counter)

    def save(self, figure: Figure, name: str) -> Path:
        """Write a figure to ``figures/<name>.png``, and show it when in a notebook."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        if in_notebook():
            from IPython.display import display

            display(figure)  # type: ignore[no-untyped-call]
        figure.clear()
        return path

    def finish(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Print the table of found against expected, write the run's files, return the report.

        With ``--check`` a missed row ends the script with exit code 1.
        """
        rows = compare(metrics, self.expected.get("rows", []))
        report = {
            "problem": self.expected.get("problem"),
            "experiment": self.expected.get("experiment"),
            "seconds": round(time.perf_counter() - self.started, 1),
            "met": all(row["met"] for row in rows),
            "rows": rows,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        write_json(self.folder / "metrics.json", report)
        print(table(rows))
        changed = self.changed_knobs()
        if changed:
            print(f"Knobs changed: {', '.join(changed)}. The expected values are for the original ones.")
        print(f"\nThis run took {report['seconds']} s and is in {self.folder}")
        for path in sorted((self.folder / "figures").glob("*.png")):
            print(f"figure: {path}")
        if self.check and not report["met"]:
            sys.exit(1)
        return report

    def changed_knobs(self) -> list[str]:
        """Knobs whose value is not the one that the expected values were measured with."""
        original = self.expected.get("knobs", {})
        return [
            f"{name}={value}"
            for name, value in self.knobs.items()
            if name != "SEED" and name in original and original[name] != value
        ]


def start_run(namespace: MutableMapping[str, Any]) -> Run:
    """Begin a run: read flags into the knobs, fix the seeds, choose the device, make the folder.

    Call it right below the knobs: ``run = start_run(globals())``.
    """
    flags = parse_flags(read_knobs(namespace), str(namespace.get("__doc__") or ""))
    knobs = apply_flags(namespace, flags)
    seed = int(knobs.get("SEED", 0))
    random.seed(seed)
    torch.manual_seed(seed)
    device = choose_device(flags.device)
    folder = new_folder(Path(flags.out), seed)
    if not in_notebook():
        sys.excepthook = _stopped(folder)
    run = Run(device, folder, knobs, read_expected(namespace), flags.check)
    write_json(folder / "config.json", {"knobs": knobs, "device": str(device), "code": _code(namespace)})
    write_json(folder / "environment.json", environment(device))
    return run


def _code(namespace: Mapping[str, Any]) -> str | None:
    """The hash of the script that runs, so that a report can tell a run from before a change."""
    script = namespace.get("__file__")
    return code_hash(Path(str(script))) if script else None


def _stopped(folder: Path) -> Callable[..., None]:
    """An excepthook that says in one line that Ctrl-C ended the run; any other error is shown in full."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"\nStopped. What there is of this run is in {folder}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    return hook


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where it works, else the CPU.  MPS must be asked for by name.

    On MPS TransformerLens users have seen wrong results (TransformerLens issue 1178), so it is
    never chosen for you: run ``python check_gpu.py`` first.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        sys.exit(f"device {name!r} cannot be used here: {error}\nTry --device cpu, or python check_gpu.py")
    return device


def new_folder(parent: Path, seed: int) -> Path:
    """Make and return ``<parent>/<time>-seed<seed>``, with a number behind it if that exists."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
    for number in range(1000):
        folder = parent / (stem if number == 0 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"no free folder name for {stem} in {parent}")


def read_expected(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """``expected.json`` beside the script (or in the current folder, for a notebook), or nothing."""
    here = Path(str(namespace.get("__file__", "experiment.py"))).resolve().parent
    for path in (here / "expected.json", Path("expected.json")):
        if path.is_file():
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return loaded
    return {}


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to run this again: versions, machine, device, threads."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def meets(value: float, row: Mapping[str, Any]) -> bool:
    """Whether ``value`` lies within the row's at_least, at_most or between.  NaN never does."""
    if math.isnan(value):
        return False
    low, high = row.get("between", (row.get("at_least", -math.inf), row.get("at_most", math.inf)))
    return bool(low <= value <= high)


def compare(metrics: Mapping[str, float], expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each expected row with what was found.  A metric that is missing counts as missed."""
    found = [float(metrics.get(row["metric"], math.nan)) for row in expected]
    return [
        {**row, "found": value, "met": meets(value, row)} for row, value in zip(expected, found, strict=True)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Found beside expected, as text that fits 80 columns."""
    if not rows:
        return "no expected values here: see metrics.json for what was found"
    expectations = [bound(row) for row in rows]
    wide = max(16, *map(len, expectations))  # a bound is never cut off: labels give way to long ones
    name = 60 - wide
    lines = [f"{'':{name}} {'found':>10}  {'expected':<{wide}}", "-" * 79]
    for row, expectation in zip(rows, expectations, strict=True):
        label, verdict = str(row["label"]), "ok" if row["met"] else "MISSED"
        label = label if len(label) <= name else label[: name - 1] + "…"
        lines.append(f"{label:{name}} {_short(row['found'])}  {expectation:<{wide}} {verdict}")
    met = sum(row["met"] for row in rows)
    return "\n".join([*lines, "-" * 79, f"{met} of {len(rows)} as expected"])


def _short(value: float) -> str:
    """``value`` in ten columns: one digit less where -1.234e+100 would need eleven."""
    text = f"{value:>10.4g}"
    return text if len(text) <= 10 else f"{value:>10.3g}"


def write_json(path: Path, data: Any) -> None:
    """Write JSON that any reader accepts: NaN and infinities become null.

    Through a temporary file: a run that is killed leaves no half of one.
    """
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(json.dumps(_finite(data), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
