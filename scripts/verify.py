"""Run every problem's experiment on three seeds, as a generated repo, and write docs/verification.md.

    python scripts/verify.py                     every problem, seeds 0 1 2
    python scripts/verify.py --only 3.3 3.16     some of them
    python scripts/verify.py --report            write the table from what has been run

Each run is a repo made by the same plan as ``mihack new``, in a folder of its own, with the network
off for model hubs.  On the first seed it is the repo's notebook that runs, alone in an empty folder, as
somebody would upload it; on the others the script.  A run is known by the hash of its script, lab, models
and knobs, so a run that was interrupted goes on where it stopped, and only what has changed is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mihack.catalog.index import Index, load
from mihack.errors import MihackError
from mihack.lab.results import bound, compare
from mihack.scaffold.plan import Answers, plan

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK_SEED = 0  # what a notebook's own cells say
LIMIT = 900.0  # seconds after which a run counts as hung; the budget itself is 60


def main() -> int:
    """Run what is missing, write the report, return 1 if a row was missed."""
    arguments = parse()
    index = load()
    wanted = arguments.only or representatives(index)
    store: Path = arguments.store
    store.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        jobs = list(missing(index, wanted, arguments.seeds, store))
        print(f"{len(jobs)} runs to do", file=sys.stderr)
        run_all(jobs, arguments.jobs, arguments.threads)
    records = list(known(index, wanted, arguments.seeds, store))
    if not arguments.only:
        text = report(index, records, arguments.seeds)
        (ROOT / "docs" / "verification.md").write_text(text, encoding="utf-8", newline="\n")
    missed = [r for r in records if not r["met"]]
    absent = len(wanted) * len(arguments.seeds) - len(records)
    for record in missed:
        rows = [row["label"] for row in record["rows"] if not row["met"]] or [record["error"]]
        print(f"missed: {record['problem']} seed {record['seed']}: {'; '.join(rows)}", file=sys.stderr)
    for line in thin(records) if arguments.thin else ():
        print(line)
    print(f"{len(records) - len(missed)} met, {len(missed)} missed, {absent} not run", file=sys.stderr)
    return 1 if missed or absent else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ID", help="problems to run (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each run (default: 1)")
    parser.add_argument("--store", type=Path, default=ROOT / ".verify", help="where runs are kept")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table")
    parser.add_argument("--thin", action="store_true", help="also name the rows that were only just met")
    return parser.parse_args()


def representatives(index: Index) -> list[str]:
    """Problems with an experiment of their own, and one for each other set of parameters.

    So every problem's repo runs the same script, with the same knobs, as one of these.
    """
    started = {key: item["starter"] for key, item in index.problems.items() if item["starter"]}
    wanted = [key for key, starter in started.items() if starter["fit"] == "exact"]
    seen = {parameters(index, started[key]) for key in wanted}
    for key, starter in started.items():
        if parameters(index, starter) not in seen:
            seen.add(parameters(index, starter))
            wanted.append(key)
    return wanted


def parameters(index: Index, starter: dict[str, Any]) -> str:
    """A card's experiment with the value of every knob that its starter's cards may set."""
    selector = index.starters[starter["name"]]["selector"]
    name = starter["parameters"][selector]
    knobs = index.starters[starter["name"]]["experiments"][name]["knobs"]
    values = {key: knob["default"] for key, knob in knobs.items()} | starter["parameters"]
    return json.dumps([starter["name"], values], sort_keys=True)


def prepared(index: Index, number: str, store: Path) -> Path:
    """The repo of a problem, written once into a folder named by its content."""
    files = plan(index.problem(number), Answers(), index)
    kinds = ("lab/", "models/", "texts/", "experiment.py")
    parts = {path: data for path, data in files.items() if path.startswith(kinds)}
    # every repo has them; none of them measures anything
    for name in (
        "__init__",
        "comparison",
        "interactive_page",
        "report_page",
        "report_text",
        "results",
        "runs",
    ):
        parts.pop(f"lab/{name}.py", None)
    # the expectations change nothing that is measured: a record is judged by them when it is read
    expected = json.loads(files["expected.json"])
    parts["knobs"] = json.dumps(expected["knobs"], sort_keys=True).encode()
    digest = hashlib.sha256(b"\0".join(p.encode() + b"\0" + parts[p] for p in sorted(parts))).hexdigest()
    folder = store / f"{number}-{digest[:12]}"
    for path, data in files.items():
        target = folder / path
        if path in ("expected.json", "notebook.ipynb") or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return folder


def missing(
    index: Index, wanted: list[str], seeds: list[int], store: Path
) -> Iterator[tuple[Path, str, int]]:
    """Runs that have no record yet, seed by seed, so that every problem is seen early."""
    folders: dict[str, Path] = {}
    for number in wanted:
        try:
            folders[number] = prepared(index, number, store)
        except MihackError as error:
            print(f"{number}: cannot be made: {error.message}", file=sys.stderr)
    for seed in seeds:
        for number, folder in folders.items():
            if not (folder / f"seed{seed}.json").exists():
                yield folder, number, seed


def run_all(jobs: list[tuple[Path, str, int]], at_once: int, threads: int) -> None:
    """Run the jobs, a line each as they finish."""
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(run_one, *job, threads) for job in jobs]
        for number, done in enumerate(as_completed(running), 1):
            record = done.result()
            verdict = "met" if record["met"] else "MISSED"
            print(
                f"[{number}/{len(jobs)}] {record['problem']:>5} seed {record['seed']}: {verdict}, "
                f"{record['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def run_one(folder: Path, number: str, seed: int, threads: int) -> dict[str, Any]:
    """Run one experiment on one seed and keep its record beside it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "MPLBACKEND": "agg"}
    out = folder / f"run-seed{seed}-{os.getpid()}-{time.monotonic_ns()}"
    if seed == NOTEBOOK_SEED:
        out.mkdir()
        command = [sys.executable, str(ROOT / "scripts" / "run_notebook.py"), str(folder / "notebook.ipynb")]
        seconds, error = timed(command, out, environment)
        out = out / "results"
    else:
        command = [sys.executable, "experiment.py", "--seed", str(seed), "--device", "cpu", "--out", str(out)]
        seconds, error = timed(command, folder, environment)
    found = sorted(out.glob("*/metrics.json"))
    result: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8")) if found else {}
    record = {
        "problem": number,
        "seed": seed,
        "seconds": round(seconds, 1),
        "threads": threads,
        "notebook": seed == NOTEBOOK_SEED,
        "metrics": result.get("metrics", {}),
        "error": error,
    }
    (folder / f"seed{seed}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return judged(record, folder)


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Run a command; the processor seconds that it took, and its last line of complaint ("" if none).

    Not the clock's seconds: those count what else the machine did.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaint:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=complaint
        )
        deadline, killed = time.monotonic() + LIMIT, False
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if not killed and time.monotonic() > deadline:
                process.kill()
                killed = True
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        complaint.seek(0)
        lines = complaint.read().strip().splitlines() or [f"exit code {process.returncode}"]
    error = f"not done after {LIMIT:.0f} s" if killed else lines[-1] if process.returncode else ""
    return ended[2].ru_utime + ended[2].ru_stime, error


def judged(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record with its rows, each held against the expectations as they stand now."""
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["rows"]
    rows = compare(record["metrics"], expected)
    return {**record, "rows": rows, "met": not record["error"] and all(row["met"] for row in rows)}


def known(index: Index, wanted: list[str], seeds: list[int], store: Path) -> Iterator[dict[str, Any]]:
    """The records of the runs of the current code."""
    for number in wanted:
        try:
            folder = prepared(index, number, store)
        except MihackError:
            continue
        for seed in seeds:
            path = folder / f"seed{seed}.json"
            if path.exists():
                yield judged(json.loads(path.read_text(encoding="utf-8")), folder)


def thin(records: list[dict[str, Any]]) -> Iterator[str]:
    """Rows whose worst seed lies nearer to its bound than half the spread between the seeds.

    Another machine rounds otherwise and so grows another network: it is one more draw, and a bound
    that the seeds only just keep is one that somebody's first run will miss.
    """
    draws: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        for row in record["rows"]:
            draws.setdefault((record["problem"], row["metric"]), []).append(row)
    for (problem, metric), rows in draws.items():
        found = [row["found"] for row in rows]
        low, high = rows[0].get("between", (rows[0].get("at_least"), rows[0].get("at_most")))
        spread = max(found) - min(found)
        room = min(
            math.inf if low is None else min(found) - low, math.inf if high is None else high - max(found)
        )
        if room < spread / 2:
            shown = ", ".join(figure(value) for value in found)
            yield f"thin: {problem} {metric}: {bound(rows[0])}; found {shown}"


def report(index: Index, records: list[dict[str, Any]], seeds: list[int]) -> str:
    """The table: a row for each problem and expectation, with what each seed found."""
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_problem.setdefault(record["problem"], []).append(record)
    met = sum(record["met"] for record in records)
    absent = len(representatives(index)) * len(seeds) - len(records)
    lines = [
        "# Verification",
        "",
        "Written by `make verify` (`scripts/verify.py`): every problem's experiment, made by the plan behind",
        f"`mihack new`, run offline on a CPU on seeds {', '.join(map(str, seeds))}. On seed {NOTEBOOK_SEED}",
        "the notebook runs, alone in an empty folder; on the others the script. Time is processor",
        "seconds of the whole script, imports included, with one torch thread: on a quiet core the clock",
        "shows the same; on a busy one it shows more, and so does this, a little.",
        "",
        f"**{met} of {len(records)} runs met every expectation**, for {len(by_problem)} problems of "
        f"{len(index.problems)}: those that have an experiment of their own, and one for each other set of",
        "parameters. Every other problem's repo runs the same script with the same knobs as one of these."
        + (f" {absent} runs are still to be made." if absent else ""),
        "",
        "| problem | experiment | processor seconds, per seed | expectation | found, per seed | met |",
        "|---|---|---|---|---|---|",
    ]
    for number, runs in by_problem.items():
        starter = index.problem(number)["starter"]
        chosen = ", ".join(f"{k} {v}" for k, v in starter["parameters"].items())
        times = ", ".join(f"{run['seconds']:.0f}" for run in runs)
        head = f"| {number} | {starter['name']}: {chosen} | {times} "
        if not any(run["rows"] for run in runs):
            lines.append(f"{head}| | {runs[0]['error'].replace('|', '/')} | no |")
        for place, row in enumerate(runs[0]["rows"]):
            same = [run["rows"][place] for run in runs if len(run["rows"]) > place]
            found = ", ".join(figure(one["found"]) for one in same)
            verdict = "yes" if all(one["met"] for one in same) else "**no**"
            lines.append(f"{head}| {row['label']}: {bound(row)} | {found} | {verdict} |")
            head = "| | | "
    return "\n".join(lines) + "\n"


def figure(value: float | None) -> str:
    """A figure with four digits; NaN is null in JSON."""
    return "none" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
