"""`mihack new` beside the cookiecutter CLI baking an equal template, interleaved, in one run.

    python benchmarks/bake.py [--rounds 15] [--problem ID]

The equal template is the repo that `mihack new` makes, turned back into a cookiecutter template:
the files of templates/project rendered with the same values, all others copied without rendering,
no hooks. Its default values are what cookiecutter gets, and the script first checks that both tools
make the same files with the same bytes. Cookiecutter does strictly less: no catalogue to read, no
validation, no notebook to build, no stage, no fsync.

Prints medians, the median of the paired ratios of wall time and of CPU time (children, user plus
system), and the load, which should be low.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mihack import shipped  # noqa: E402
from mihack.catalog.index import load  # noqa: E402
from mihack.scaffold import engine, plan, values  # noqa: E402
from mihack.scaffold.experiment import choose  # noqa: E402

LIMIT = 0.75


def raw(text: str) -> str:
    """``text`` as a Jinja template that gives it back (the values hold braces of their own)."""
    return "{% raw %}" + text + "{% endraw %}"


def equal_template(problem_id: str, folder: Path) -> dict[str, bytes]:
    """Write the equal template to ``folder``; what both tools should make."""
    index = load()
    problem = index.problem(problem_id)
    answers = plan.Answers()
    files = plan.plan(problem, answers, index)
    experiment = choose(problem, index, answers.settings)
    context = values.context(problem, experiment, index, plan.project_name(problem, answers), answers)
    shared = shipped.templates_dir() / "project" / engine.ROOT
    rendered = [path.relative_to(shared).as_posix() for path in engine.files_under(shared)]
    repo = folder / engine.ROOT
    for path, content in files.items():
        target = repo / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((shared / path).read_bytes() if path in rendered else content)
    settings: dict[str, object] = {name: raw(value) for name, value in context.items()}
    settings["repo_name"] = context["repo_name"]
    copied = [f"{engine.ROOT}/{path}" for path in files if path not in rendered]
    settings["_copy_without_render"] = copied
    (folder / "cookiecutter.json").write_text(json.dumps(settings), encoding="utf-8")
    return files


def timed(command: list[str], environment: dict[str, str], cwd: Path) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of a command that must succeed."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, spent


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--problem", default="3.3")
    parser.add_argument("--check", action="store_true", help=f"exit 1 if the ratio is over {LIMIT}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "template").mkdir()
        files = equal_template(options.problem, work / "template")
        environment = {**os.environ, "HOME": name, "PYTHONPATH": str(ROOT)}
        ours = [sys.executable, "-m", "mihack", "new", options.problem, "ours"]
        theirs = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", "theirs", "template"]
        rows = []
        for turn in range(options.rounds + 1):
            pair = {}
            for label, command in [("ours", ours), ("theirs", theirs)][:: 1 if turn % 2 else -1]:
                pair[label] = timed(command, environment, work)
            made = tree(work / "ours"), tree(next((work / "theirs").iterdir()))
            if made != (files, files):
                different = sorted(p for p in files if made[0].get(p) != made[1].get(p))
                sys.exit(f"the two repos differ: {different}")
            shutil.rmtree(work / "ours")
            shutil.rmtree(work / "theirs")
            if turn:  # the first round warms the caches
                rows.append(pair)
    report(rows, len(files), options.check)


def report(rows: list[dict[str, tuple[float, float]]], files: int, check: bool) -> None:
    """The table, and the verdict."""
    print(
        f"{files} files, {len(rows)} rounds, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
    )
    for label, name in (("ours", "mihack new"), ("theirs", "cookiecutter")):
        wall = statistics.median(row[label][0] for row in rows) * 1000
        cpu = statistics.median(row[label][1] for row in rows) * 1000
        print(f"{name:<14} {wall:6.0f} ms wall  {cpu:6.0f} ms CPU")
    wall_ratio = statistics.median(row["ours"][0] / row["theirs"][0] for row in rows)
    cpu_ratio = statistics.median(row["ours"][1] / row["theirs"][1] for row in rows)
    print(f"{'ratio':<14} {wall_ratio:6.2f} wall     {cpu_ratio:6.2f} CPU     (limit {LIMIT} wall)")
    if check and wall_ratio > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
