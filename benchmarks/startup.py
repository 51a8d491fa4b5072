"""Start-up of the commands as ratios to ``python -c pass``, side by side in one run.

    python benchmarks/startup.py              the table
    python benchmarks/startup.py --check      exit 1 if a bar is missed

Rounds are interleaved in random order, so that a machine whose speed drifts slows all alike; the
figure is the ratio of medians.  CPU time is the sum of user and system time of the child process.
"""

from __future__ import annotations

import argparse
import compileall
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

# the installed console script, as users run it; in an environment without one, what it contains
SCRIPT = Path(sys.executable).with_name("mihack")
ENTRY = "from mihack.__main__ import main; main()"
MIHACK = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-c", ENTRY]

# name -> (command, bar as a multiple of `python -c pass`; None: no bar)
COMPLETE = {"_MIHACK_COMPLETE": "bash_complete", "COMP_WORDS": "mihack show 3.", "COMP_CWORD": "2"}
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "mihack --version": ([*MIHACK, "--version"], 4.5),
    "mihack list": ([*MIHACK, "list"], 5.0),
    "mihack list --difficulty A": ([*MIHACK, "list", "--difficulty", "A"], 5.0),
    "mihack show 3.1": ([*MIHACK, "show", "3.1"], 15.0),
    "mihack show 3.1 (terminal)": ([*MIHACK, "show", "3.1"], 15.0),
    "mihack explain grokking": ([*MIHACK, "explain", "grokking"], None),
    "TAB after mihack show 3.": (MIHACK, None),
}


def measure(name: str, command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    environment = {**os.environ, **(COMPLETE if name.startswith("TAB") else {})}
    # installers compile modules; a checkout does so in the first round, unless this forbids it
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    if name.endswith("(terminal)"):
        _on_terminal(command, environment)
    else:
        subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _on_terminal(command: list[str], environment: dict[str, str]) -> None:
    """Run with a terminal as stdout, where ``show`` lays the card out with rich."""
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(command, env={**environment, "TERM": "xterm"}, stdout=child, stderr=child)
    os.close(child)
    try:
        while os.read(parent, 65536):
            pass
    except OSError:  # Linux says EIO when the last writer has gone
        pass
    os.close(parent)
    process.wait()


def main() -> int:
    """Measure, print the table, return 1 with --check if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    # pip compiles what it installs; a checkout under PYTHONDONTWRITEBYTECODE would compile at every run
    compileall.compile_dir(Path(__file__).parent.parent / "mihack", quiet=2)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for round_number in range(arguments.rounds + 1):
        order = list(COMMANDS)
        random.Random(round_number).shuffle(order)
        for name in order:
            figure = measure(name, COMMANDS[name][0])
            if round_number:  # the first round warms the page cache
                times[name].append(figure)
    base_wall, base_cpu = (statistics.median(one[i] for one in times["python -c pass"]) for i in (0, 1))
    print(f"{'command':30} {'wall ms':>8} {'wall x':>7} {'cpu x':>7} {'bar':>6}")
    missed = 0
    for name, (_, bar) in COMMANDS.items():
        wall, cpu = (statistics.median(one[i] for one in times[name]) for i in (0, 1))
        ratio = wall / base_wall
        verdict = "" if bar is None else ("met" if ratio <= bar else "MISSED")
        missed += verdict == "MISSED"
        limit = "" if bar is None else f"{bar:g}x"
        print(f"{name:30} {wall * 1000:8.1f} {ratio:6.2f}x {cpu / base_cpu:6.2f}x {limit:>6} {verdict}")
    print(f"\n{arguments.rounds} interleaved rounds, Python {sys.version.split()[0]}, ratios of medians.")
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
