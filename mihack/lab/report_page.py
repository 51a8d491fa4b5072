"""The report as one HTML page that fetches nothing and prints on about four sheets of A4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report_text import SECTIONS, Text, data_uri
from .runs import Finished, Measured, bound, changed_knobs, expected_metrics, older_than, other_metrics

COLUMNS = 5  # with more seeds than this, their values share one column

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f3f6f8; --line: #c6d0d8; --text: #1b2329;
  --quiet: #4d5a64; --link: #0b5d83; --good: #14603a; --bad: #96281b; }
@media screen and (prefers-color-scheme: dark) { :root { --ground: #12181d; --panel: #1b242b; --line: #37454f;
  --text: #e6ecf0; --quiet: #a9b7c1; --link: #7cc4ea; --good: #7fd6a4; --bad: #ff9d8f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 50rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3, h4, h5, h6 { line-height: 1.25; margin: 1.4em 0 .4em; break-after: avoid; }
h1 { font-size: 1.7rem; margin-top: .4em; } h2 { font-size: 1.25rem; border-bottom: 1px solid var(--line); }
h3, h4, h5, h6 { font-size: 1rem; }
p, ul, ol { margin: .5em 0; } a { color: var(--link); }
.quiet, figcaption { color: var(--quiet); } figcaption { font-size: .9rem; }
.todo, .missed { color: var(--bad); font-weight: 600; } .met { color: var(--good); }
.draft { border: 2px solid var(--bad); padding: .5rem .8rem; border-radius: 4px; }
.scroll { overflow-x: auto; margin: .6em 0; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; color: var(--quiet); font-size: .85em; } tr { break-inside: avoid; }
figure { margin: 1em 0; break-inside: avoid; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--panel); padding: .6rem; white-space: pre-wrap; border-radius: 4px; }
blockquote { margin: .6em 0; padding-left: 1em; border-left: 3px solid var(--line); }
a:focus-visible, .scroll:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
@page { size: A4; margin: 17mm 18mm; }
@media print { body { font-size: 9.5pt; line-height: 1.38; } main { padding: 0; max-width: none; }
  h1 { font-size: 16pt; } h2 { font-size: 12pt; } .scroll { overflow: visible; } img { max-height: 95mm; } }
"""


def page(text: Text, made: Mapping[str, str], subtitle: str, missing: Sequence[str]) -> str:
    """The whole page: your sections in your order, each followed by what is ``made`` from the runs."""
    title = escape(text.title or "Report")
    parts = "".join(_section(name, text, made) for name in _order(text))
    draft = f'<p class="draft">A draft: {escape("; ".join(missing))}.</p>' if missing else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p class="quiet">{escape(subtitle)}</p>\n{text.opening}{draft}{parts}'
        '<p class="quiet">The words are the authors’ (REPORT.md); tables and figures that stand under '
        "a heading of their own are made from results/ by report.py.</p>\n</main>\n</body>\n</html>\n"
    )


def _order(text: Text) -> list[str]:
    """Your sections as you have them, with those that are missing after the one that comes before."""
    order = [part.title for part in text.sections]
    for place, name in enumerate(SECTIONS):
        if name.casefold() not in map(str.casefold, order):
            before = [n for n, have in enumerate(order) if have in SECTIONS[:place]]
            order.insert(max(before) + 1 if before else 0, name)
    return order


def _section(name: str, text: Text, made: Mapping[str, str]) -> str:
    part = text.section(name)
    words = part.html if part and part.written else ""
    ours = next((html for title, html in made.items() if title.casefold() == name.casefold()), "")
    if not words and name != "Appendix":
        where = f"REPORT.md, line {part.line}" if part else "no such heading in REPORT.md"
        words = f'<p class="todo">Not written yet ({where}).</p>\n'
    return f"<section>\n<h2>{escape(name)}</h2>\n{words}{ours}</section>\n"


def results(runs: Sequence[Finished], shown: Iterable[Path] = ()) -> str:
    """Found against expected on every seed, and the figures that your words do not show already."""
    expected = expected_metrics(runs)
    several = len(runs) > 1
    heads = [*_seed_heads(runs), *(["mean ± sd"] if several else []), "Expected", ""]
    rows = [[_label(item), *_values(item), *([item.spread] if several else []), escape(bound(item.row)),
             _verdict(item)] for item in expected]  # fmt: skip
    numbers = len(heads) - 2
    table_ = table("Found against expected", ["Measured", *heads], rows, numbers) if rows else ""
    already = {path.resolve() for path in shown}
    figures = [path for path in runs[-1].figures if path.resolve() not in already]
    return table_ + "".join(_figure(path, runs[-1]) for path in figures)


def _label(item: Measured) -> str:
    why = str(item.row.get("why") or "")
    return escape(item.label) + (f"<small>{escape(why)}</small>" if why else "")


def _seed_heads(runs: Sequence[Finished]) -> list[str]:
    return [f"Seed {run.seed}" for run in runs] if len(runs) <= COLUMNS else ["Each seed"]


def _values(item: Measured) -> list[str]:
    values = ["none" if value is None else f"{value:.4g}" for value in item.values]
    return values if len(values) <= COLUMNS else [", ".join(values)]


def _verdict(item: Measured) -> str:
    met, runs = sum(item.met), len(item.met)
    word = "met" if met == runs else "missed" if met == 0 else f"met on {met} of {runs}"
    return f'<span class="{"met" if met == runs else "missed"}">{word}</span>'


def _figure(path: Path, run: Finished) -> str:
    caption = f"{path.stem.replace('_', ' ').replace('-', ' ').capitalize()} (seed {run.seed})"
    picture = f'<img src="{data_uri(path)}" alt="{escape(caption)}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n"


def methods(runs: Sequence[Finished], original: Mapping[str, Any]) -> str:
    """The knobs, with those that are not as generated, and the seeds."""
    run = runs[-1]
    changed = changed_knobs(run, original)
    rows = [
        [f"<code>{escape(name)}</code>", escape(str(value)), escape(str(changed.get(name, "")))]
        for name, value in run.knobs.items()
        if name != "SEED"
    ]
    seeds = ", ".join(str(each.seed) for each in runs)
    name = escape(str(run.report.get("experiment") or "experiment.py"))
    said = f"<p>Experiment <code>{name}</code>, seeds: {escape(seeds)}.</p>\n"
    heads = ["Knob", "Value", "Was, when generated"]
    if not changed:
        heads, rows = heads[:2], [row[:2] for row in rows]
    return said + table("Settings", heads, rows, 0)


def limits(runs: Sequence[Finished], original: Mapping[str, Any], script: Path) -> str:
    """What the run files themselves say against the numbers."""
    told = []
    if len(runs) == 1:
        told.append("One seed only: how far seeds disagree is not known.")
    for item in expected_metrics(runs):
        if not all(item.met):
            told.append(f"“{item.label}” is not as expected on {item.met.count(False)} of {len(runs)} seeds.")
    for name, was in changed_knobs(runs[-1], original).items():
        told.append(f"{name} is not {was}, the value that the expectations were measured with.")
    stale = [str(run.seed) for run in runs if older_than(run, script)]
    if stale:
        told.append(f"experiment.py has changed since the run of seed {', '.join(stale)}.")
    items = "".join(f"<li>{escape(line)}</li>" for line in told)
    return f"<h3>Limits that the run files show</h3>\n<ul>{items}</ul>\n" if told else ""


def appendix(runs: Sequence[Finished]) -> str:
    """Environment, every other number, and how to get the runs again."""
    places: dict[str, dict[str, None]] = {}
    for run in runs:
        versions = {name: value for name, value in run.environment.items() if name != "packages"}
        for name, value in {**versions, **run.environment["packages"]}.items():
            places.setdefault(str(name), {})[str(value)] = None
    made = table(
        "Environment", ["", "Version"], [[escape(k), escape(", ".join(v))] for k, v in places.items()], 0
    )
    others = [[f"<code>{escape(item.label)}</code>", *_values(item)] for item in other_metrics(runs)]
    if others:
        heads = ["Measured", *_seed_heads(runs)]
        made += table("Numbers without an expectation", heads, others, len(heads) - 1)
    listed = "".join(f"<li><code>{escape(run.folder.as_posix())}</code></li>" for run in runs)
    return made + f"<h3>Runs</h3>\n<ul>{listed}</ul>\n"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table of HTML cells under its heading; ``numbers`` columns after the first are aligned right."""

    def kind(place: int) -> str:
        return ' class="number"' if 0 < place <= numbers else ""

    head = "".join(
        f'<th scope="col"{kind(n)}>{escape(name)}</th>' if name else "<td></td>"
        for n, name in enumerate(heads)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{kind(n)}>{cell}</td>' for n, cell in enumerate(row))}</tr>\n" for row in rows
    )
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}">'
    return (
        f"<h3>{escape(title)}</h3>\n{region}"
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )
