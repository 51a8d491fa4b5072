"""The weekend's checklist of a generated repo, each item judged by what lies in the repo.

Nothing is ticked by hand: an item is done when its evidence is there, begun when part of it is, and
each says what would bring it on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from .generated_repo import GeneratedRepo
from .runs import FinishedRun

DONE, BEGUN, OPEN = "done", "begun", "open"
SECTIONS = ("Abstract", "Introduction", "Methods", "Results", "Discussion")
# A section with fewer words of the team's own is not written yet, and one seed is an anecdote.
ENOUGH_WORDS = 20
ENOUGH_SEEDS = 3
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*\bsrc=[\"']([^\"']+)")


@dataclass(frozen=True)
class Item:
    """One line of the checklist: how far it is, by which evidence, and what to do next."""

    name: str
    state: str
    evidence: str
    next: str  # empty when done


@dataclass(frozen=True)
class Evidence:
    """What the checklist is judged by."""

    repo: GeneratedRepo
    runs: list[FinishedRun]
    report: str  # REPORT.md, or nothing
    code_changed: list[str]  # scripts and notebooks that differ from the template, or are new
    changed_at: float  # when the last of them was changed, in seconds since 1970

    def baselines(self) -> list[FinishedRun]:
        """Runs with the knobs as generated, whatever their seed."""
        same = dict(self.repo.parameters)
        return [run for run in self.runs if _without_seed(run.knobs) == _without_seed(same)]

    def own_runs(self) -> list[FinishedRun]:
        """Runs of the team's own question: other knobs, or code that was changed before."""
        baselines = self.baselines()
        changed = self.changed_at if self.code_changed else float("inf")
        return [run for run in self.runs if run not in baselines or run.finished > changed]


def checklist(evidence: Evidence) -> list[Item]:
    """The six items, in the order of a weekend."""
    judges = (understood, baseline, own_question, controls, figure, write_up)
    return [judge(evidence) for judge in judges]


def understood(evidence: Evidence) -> Item:
    """The introduction of the report says in the team's words what is asked."""
    words = own_words(evidence.report).get("Introduction", 0)
    state = DONE if words >= ENOUGH_WORDS else BEGUN if words else OPEN
    number = evidence.repo.problem
    todo = (
        f"Read PROBLEM.md or `mihack show {number}`, then write your question and what you expect into "
        "REPORT.md, Introduction."
    )
    found = f"{_count(words, 'word')} of yours" if words else "nothing of yours yet"
    return _item("Understood", state, f"REPORT.md, Introduction: {found}", todo)


def baseline(evidence: Evidence) -> Item:
    """A run with the knobs as generated that meets every expected row."""
    runs = evidence.baselines()
    if not runs:
        found = (
            f"no run with the original knobs among {len(evidence.runs)}" if evidence.runs else "no run yet"
        )
        return _item("Baseline reproduced", OPEN, found, "Run it as it is: `python experiment.py`")
    best = max(runs, key=lambda run: (run.met()[0] - run.met()[1], run.met()[1], run.finished))
    met, rows = best.met()
    edited = "" if evidence.repo.state("expected.json") == "same" else "; expected.json was edited"
    found = f"{best.name}: {met} of {rows} rows as expected{edited}"
    todo = "Find out why rows are missed: `python check_gpu.py`, then another seed."
    return _item("Baseline reproduced", DONE if rows and met == rows else BEGUN, found, todo)


def own_question(evidence: Evidence) -> Item:
    """A run with other knobs, or of code that differs from the template."""
    runs = evidence.own_runs()
    code = _some(evidence.code_changed)
    if runs:
        why = f" ({code} changed)" if code else " (other knobs)"
        found = f"{_count(len(runs), 'run')} beyond the baseline, the last {runs[-1].name}{why}"
        return _item("Own question", DONE, found, "")
    if code:
        return _item("Own question", BEGUN, f"{code} changed, no run since", "Run it: `python experiment.py`")
    todo = (
        "Change a knob (`python experiment.py --help`) or the code; README.md, What to try next, has ideas."
    )
    return _item("Own question", OPEN, "code and knobs are as they came", todo)


def controls(evidence: Evidence) -> Item:
    """Of the team's own question: several seeds of one setting, their control rows met."""
    own = evidence.own_runs()
    group = _most_seeds(own or evidence.runs)
    if not group:
        return _item("Controls", OPEN, "no run yet", "They come with the first run; then try other seeds.")
    seeds = _seeds(group)
    missed = [run.name for run in group if run.met("control")[0] < run.met("control")[1]]
    rows = f"control rows missed in {_some(missed)}" if missed else "control rows met"
    found = f"{'own question' if own else 'baseline'}: {_count(len(seeds), 'seed')} of one setting; {rows}"
    if missed:
        todo = "Mend it, or say in REPORT.md why it fails: until then the result may be an artefact."
    elif len(seeds) < ENOUGH_SEEDS:
        free = next(number for number in range(len(seeds) + 1) if str(number) not in seeds)
        todo = f"{ENOUGH_SEEDS} seeds at least: `python experiment.py --seed {free}`, same knobs."
    else:
        todo = "" if own else "Now the same for your own question."
    return _item("Controls", BEGUN if todo else DONE, found, todo)


def _most_seeds(runs: list[FinishedRun]) -> list[FinishedRun]:
    """The runs of that setting which has most seeds; the latest of those that have as many."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in reversed(runs):
        groups.setdefault(run.setting, []).append(run)
    return max(groups.values(), key=lambda group: len(_seeds(group)), default=[])


def figure(evidence: Evidence) -> Item:
    """A figure that exists and that the report shows."""
    shown = images(evidence.report)
    there = [path for path in shown if _is_there(evidence.repo.root, path)]
    drawn = sum(len(run.figures) for run in evidence.runs)
    if there:
        kept = "; copy it out of results/, which git does not keep" if _in_results(there[0]) else ""
        return _item("Figure", DONE, f"REPORT.md shows {_some(there)}{kept}", "")
    if shown:
        return _item("Figure", BEGUN, f"REPORT.md names {shown[0]}, which is not there", "Mend the path.")
    found = f"{_count(drawn, 'figure')} in results/, none in REPORT.md" if drawn else "none yet"
    todo = (
        "Choose the one that answers your question, copy it to figures/ and show it: "
        "`![what it shows](figures/NAME.png)`"
    )
    return _item("Figure", BEGUN if drawn else OPEN, found, todo)


def write_up(evidence: Evidence) -> Item:
    """Every section of the report has text of the team's own."""
    if not evidence.report:
        return _item("Write-up", OPEN, "there is no REPORT.md", "Write REPORT.md, or take it from git again.")
    words = own_words(evidence.report)
    missing = [name for name in SECTIONS if words.get(name, 0) < ENOUGH_WORDS]
    found = f"{len(SECTIONS) - len(missing)} of {len(SECTIONS)} sections written"
    state = OPEN if not any(words.get(name) for name in SECTIONS) else BEGUN if missing else DONE
    return _item(
        "Write-up", state, found, f"Write: {', '.join(missing)} ({ENOUGH_WORDS} words or more each)."
    )


def own_words(report: str) -> dict[str, int]:
    """Heading -> words under it, without the prompts, which are comments, and without images."""
    text = _IMAGE.sub(" ", _COMMENT.sub(" ", report))
    _, *parts = re.split(r"^##[ \t]+(.+?)[ \t#]*$", text, flags=re.M)
    return {
        heading: len(re.findall(r"\w+", body)) for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def images(report: str) -> list[str]:
    """The files that the report shows; prompts and addresses on the web do not count."""
    found = [first or second for first, second in _IMAGE.findall(_COMMENT.sub(" ", report))]
    return [path for path in found if not re.match(r"[a-z]+:|//", path)]


def _is_there(root: Path, path: str) -> bool:
    try:
        return (root / unquote(path)).is_file()
    except (OSError, ValueError):  # a name that no system could hold
        return False


def _in_results(path: str) -> bool:
    return path.removeprefix("./").startswith("results/")


def _item(name: str, state: str, evidence: str, todo: str) -> Item:
    return Item(name, state, evidence, "" if state == DONE else todo)


def _without_seed(knobs: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in knobs.items() if name != "SEED"}


def _seeds(runs: Iterable[FinishedRun]) -> set[str]:
    return {str(run.seed) for run in runs}


def _some(names: list[str]) -> str:
    """The first two of them, and how many more."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
