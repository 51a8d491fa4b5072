"""The values that the project template may use, each already encoded for where it lands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .encode import markdown_block, markdown_text, one_line, toml_string, url
from .experiment import Experiment

if TYPE_CHECKING:
    from ..catalog.index import Index
    from .plan import Answers

_COMPUTE = {
    "laptop": "a laptop",
    "free-gpu": "a free Colab GPU",
    "gpu": "a GPU of your own",
    "cluster": "a cluster",
}
_BASIS = {
    "posted": "as posted",
    "community": "from the community list",
    "recalled": "recalled from the list, unconfirmed",
    "estimated": "our estimate",
}
_SECTIONS = {
    "problem": "Problem",
    "why": "Why it matters",
    "first_steps": "First steps",
    "further": "Going further",
    "prior_work": "Prior work",
}


def context(
    problem: Mapping[str, Any],
    experiment: Experiment,
    index: Index,
    repo_name: str,
    answers: Answers,
) -> dict[str, str]:
    """The cookiecutter variables. Names end in what they are: _md, _toml, or a plain safe word."""
    about = experiment.about
    works = [index.works.get(key) for key in about.get("references", [])]
    return {
        "repo_name": repo_name,
        "problem_id_md": markdown_text(str(problem["id"])),
        "title_md": markdown_text(problem["title"]),
        "description_toml": toml_string(f"{problem['id']} {problem['title']}"),
        "authors_toml": _authors_toml(answers.author),
        "holder": one_line(answers.author) or f"The authors of {repo_name}",
        "about_md": _about(problem, index),
        "lead_md": _lead(problem),
        "remains_md": markdown_block(problem.get("remains") or ""),
        "experiment_md": markdown_block(about.get("summary", "")),
        "requirements_txt": "\n".join(map(one_line, experiment.requirements)),
        "requirements_toml": "\n".join(f"  {toml_string(name)}," for name in experiment.requirements),
        "seconds": str(about.get("seconds", "?")),
        "expected_md": _expected_table(experiment.expected_rows),
        "look_at_md": markdown_block(about.get("look_at") or "").strip(),
        "replace_md": _replace(problem),
        "next_md": _bullets(markdown_block(item) for item in about.get("next", [])),
        "knobs_md": _knobs(experiment),
        "sections_md": _sections(problem),
        "words_md": _words(problem, index),
        "resources_md": _resources(problem, index),
        "works_md": _bullets(work_md(work) for work in works if work),
        "bearing_md": _bearing(problem, index),
        "sources_md": _bullets(link_md(item["label"], item["url"]) for item in problem["sources"]),
    }


def link_md(label: str, address: str) -> str:
    """A Markdown link, or the plain label if the address is not http(s)."""
    target = url(address)
    return f"[{markdown_text(label)}]({target})" if target else markdown_text(label)


def work_md(work: Mapping[str, Any]) -> str:
    """A work as a citation: authors (year), title with its link, and whether we checked it."""
    address = work.get("url") or ""
    if work.get("arxiv"):
        address = f"https://arxiv.org/abs/{work['arxiv']}"
    elif work.get("doi"):
        address = f"https://doi.org/{work['doi']}"
    unchecked = "" if work.get("confirmed") else " (citation from memory: check before you cite)"
    authors = markdown_text(str(work.get("authors", "")))
    title = link_md(str(work["title"]), address)
    return f"{authors} ({work.get('year', 'n.d.')}). {title}{unchecked}"


def bound_md(row: Mapping[str, Any]) -> str:
    """A row's expectation in words: ``at least 0.99``."""
    if "between" in row:
        return f"{row['between'][0]:g} to {row['between'][1]:g}"
    return f"at least {row['at_least']:g}" if "at_least" in row else f"at most {row['at_most']:g}"


def _about(problem: Mapping[str, Any], index: Index) -> str:
    low, high = problem.get("hours", ["?", "?"])
    basis = _BASIS.get(problem.get("difficulty_basis", ""), "unknown basis")
    if problem.get("changed"):
        basis = f"changed by {problem['changed']['by']}: {problem['changed']['reason']}"
    parts = [
        f"Difficulty {problem.get('difficulty', 'unknown')} ({basis})",
        f"{problem.get('status', 'unknown')} (reviewed {problem.get('reviewed', 'never')})",
        f"{low} to {high} hours to a first result of your own (our estimate)",
        f"needs {_COMPUTE.get(problem.get('compute', ''), 'unknown hardware')}",
    ]
    if index.event:
        parts.append(f"made for {index.event['name']}, {index.event['starts']} to {index.event['ends']}")
    return markdown_text(" · ".join(parts)) + "."


def _lead(problem: Mapping[str, Any]) -> str:
    """The first paragraph of the problem; the rest is in PROBLEM.md."""
    text = str(problem.get("sections", {}).get("problem", "")).strip()
    lead = markdown_block(text.split("\n\n")[0])
    if (problem.get("starter") or {}).get("fit") == "near":
        lead += (
            "\n\n**The experiment here is a warm-up.** It shows the method or the phenomenon on a small "
            "model; the problem's own question is still yours to set up (`PROBLEM.md`, First steps)."
        )
    return lead


def _replace(problem: Mapping[str, Any]) -> str:
    """How to get from a warm-up to the problem: the card's note, its models, what remains; else nothing."""
    starter = problem.get("starter") or {}
    if starter.get("fit") != "near":
        return ""
    models = "; ".join(markdown_text(str(model)) for model in problem.get("models", []))
    steps = [
        f"**Model**: the problem is about {models}." if models else "",
        f"**Question**: what is left of it: {markdown_block(problem.get('remains') or 'see PROBLEM.md')}",
        "**Numbers**: the rows of `expected.json` belong to the warm-up. Before you run your own version, write "
        "rows for it: a baseline, a no-op, an ablation, the same at random.",
        "**Order**: First steps in `PROBLEM.md`.",
    ]
    note = markdown_block(starter.get("note") or "").strip()
    return "\n\n".join(part for part in (note, _bullets(filter(None, steps))) if part)


def _expected_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "No expected values are recorded for these settings."
    lines = ["| Measured | Expected | Why |", "|---|---|---|"]
    for row in rows:
        cells = (row["label"], bound_md(row), row.get("why") or "")
        lines.append(f"| {' | '.join(markdown_text(str(cell)) for cell in cells)} |")
    return "\n".join(lines)


def _knobs(experiment: Experiment) -> str:
    """The knobs that the experiment documents, with this repo's value."""
    return _bullets(
        f"`--{name.replace('_', '-')}` (now {_code(experiment.knobs[name.upper()])}): "
        f"{markdown_text(str(rule.get('help', '')))}{_choices(rule)}"
        for name, rule in experiment.about.get("knobs", {}).items()
        if name.upper() in experiment.knobs
    )


def _code(value: object) -> str:
    """A code span, or escaped text where a backtick would end it."""
    text = one_line(str(value))
    return markdown_text(text) if "`" in text or not text else f"`{text}`"


def _choices(rule: Mapping[str, Any]) -> str:
    choices = rule.get("choices")
    return f" ({markdown_text(', '.join(map(str, choices)))})" if choices else ""


def _sections(problem: Mapping[str, Any]) -> str:
    sections = problem.get("sections", {})
    return "\n\n".join(
        f"## {heading}\n\n{markdown_block(sections[key]).strip()}"
        for key, heading in _SECTIONS.items()
        if sections.get(key)
    )


def _words(problem: Mapping[str, Any], index: Index) -> str:
    concepts = [index.concepts.get(slug) for slug in problem.get("concepts", [])]
    return _bullets(
        f"**{markdown_text(concept['term'])}**: {markdown_block(concept['summary'])}"
        for concept in concepts
        if concept
    )


def _resources(problem: Mapping[str, Any], index: Index) -> str:
    resources = [index.resources.get(key) for key in problem.get("resources", [])]
    return _bullets(
        f"{link_md(item['title'], item['url'])}: {markdown_block(item.get('what_for', ''))}"
        for item in resources
        if item
    )


def _bearing(problem: Mapping[str, Any], index: Index) -> str:
    works = index.works
    return _bullets(
        f"{work_md(works[entry['work']])}: {markdown_block(entry['bearing'])}"
        for entry in problem.get("works", [])
        if entry["work"] in works
    )


def _bullets(items: Iterable[str]) -> str:
    """A Markdown list, or 'None recorded.' so that no heading stands over nothing."""
    lines = [f"- {' '.join(item.split())}" for item in items]
    return "\n".join(lines) or "None recorded."


def _authors_toml(author: str) -> str:
    return f"[{{ name = {toml_string(author)} }}]" if one_line(author) else "[]"
