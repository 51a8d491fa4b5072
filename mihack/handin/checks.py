"""Whether the report is written, the runs are whole and newer than the code, and the notebook executes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..lab.report_text import Text, read_text, unwritten
from ..lab.runs import Finished, bound, expected_metrics, older_than

_TODO = re.compile(r"\b(?:TODO|TBD|FIXME)\b|lorem ipsum", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_EXECUTE = (
    "import nbformat, sys\nfrom nbclient import NotebookClient\n"
    "NotebookClient(nbformat.read(sys.argv[1], 4), timeout=3600, kernel_name='python3').execute()"
)


def report_faults(root: Path, runs: list[Finished]) -> list[str]:
    """What the report lacks."""
    path = root / "REPORT.md"
    if not path.is_file():
        return ["REPORT.md:1: missing. Write it: abstract, introduction, methods, results, discussion"]
    text = read_text(path, [run.folder for run in reversed(runs)])
    found = [*unwritten(path, text), *text.faults]
    for number, line in enumerate(path.read_text("utf-8", errors="replace").split("\n"), 1):
        if _TODO.search(line):
            found.append(f"REPORT.md:{number}: still to do. Write it, or take the line out")
    return [*found, *_undiscussed(text, runs)]


def _undiscussed(text: Text, runs: list[Finished]) -> Iterator[str]:
    """Missed expectations that neither Results nor Discussion names."""
    parts = [text.section(name) for name in ("Results", "Discussion")]
    words = _plain(" ".join(part.html for part in parts if part))
    for item in expected_metrics(runs):
        if all(item.met) or _plain(item.label) in words or _plain(item.metric) in words:
            continue
        line = text.section("Discussion")
        told = f'"{item.label}" is not {bound(item.row)}'
        yield f"REPORT.md:{line.line if line else 1}: {told}. Say by this name what that means, or run again"


def _plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", "", text).casefold().split())


def run_faults(root: Path, runs: list[Finished]) -> list[str]:
    """No run, or runs from before a change of the code."""
    if not runs:
        return ["results:1: no finished run. Run it: python experiment.py"]
    return [
        f"{run.folder.relative_to(root).as_posix()}/metrics.json:1: experiment.py changed since. Run it again"
        for run in runs
        if older_than(run, root / "experiment.py")
    ]


def made_report(root: Path, runs: list[Finished]) -> tuple[bytes, list[str]]:
    """report.html as the repo's own report.py makes it now, or what is wrong."""
    if not runs or not (root / "report.py").is_file():
        return b"", [] if runs == [] else ["report.py:1: missing. Take it from a new repo: mihack new"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.html"
        command = [
            sys.executable,
            "-B",
            "report.py",
            "--output",
            str(out),
            *(str(run.folder) for run in runs),
        ]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            return b"", [f"report.py:1: fails: {done.stderr.strip()[-300:]}"]
        return out.read_bytes(), []


def notebook_faults(root: Path, files: dict[str, bytes]) -> list[str]:
    """Execute the notebook in a folder that holds nothing but the hand-in."""
    if "notebook.ipynb" not in files:
        return ["notebook.ipynb:1: missing"]
    with tempfile.TemporaryDirectory(prefix="mihack-notebook-") as folder:
        for name, content in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        own = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        command = [str(own) if own.exists() else sys.executable, "-c", _EXECUTE, "notebook.ipynb"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return []
    if "No module named 'nbclient'" in done.stderr or "No module named 'nbformat'" in done.stderr:
        return [
            "notebook.ipynb:1: cannot be executed here. pip install nbclient ipykernel, or --skip-notebook"
        ]
    last = _COLOUR.sub("", done.stderr.strip().split("\n")[-1])[:300]
    return [f"notebook.ipynb:1: does not run from clean: {last}. Run all its cells yourself"]
