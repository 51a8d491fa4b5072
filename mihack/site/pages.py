"""Every page of the site, by relative path.  Pure: no disk but the templates, no time, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mihack import __version__
from mihack.catalog.index import Index
from mihack.catalog.query import CODING, COMPUTE, STATUS
from mihack.commands.resources import KINDS
from mihack.commands.show import BASIS, SECTIONS, address, changed
from mihack.scaffold.paths import confined
from mihack.site import markdown
from mihack.site.listing import catalog_js, texts_js
from mihack.terminal import clean, one_line

HERE = Path(__file__).parent
Pages = dict[str, bytes]
Figures = Mapping[tuple[str, str], bytes]  # (starter, experiment) -> PNG
HOURS = ("4", "8", "12", "16", "24", "40")
Progress = Callable[[int, int], None]


def pages(index: Index, figures: Figures | None = None, progress: Progress | None = None) -> Pages:
    """The whole site: {relative path: bytes}.  ``progress`` is told (done, total) problems."""
    site = Site(index, figures or {})
    made = site.assets() | site.overviews()
    made |= {f"areas/{slug}.html": site.area(slug) for slug in site.areas}
    for done, item in enumerate(index.problems.values(), 1):
        made[f"problems/{item['id']}.html"] = site.problem(index.whole(item))
        if progress is not None:
            progress(done, len(index.problems))
    return {confined(path): made[path] for path in sorted(made)}


class Site:
    """The templates, and what they are filled with."""

    def __init__(self, index: Index, figures: Figures) -> None:
        self.index = index
        self.figures = figures
        used = {item["area"] for item in index.problems.values()}
        self.areas = {slug: area for slug, area in index.areas.items() if slug in used}
        self._environment = _environment()
        self._environment.globals |= {"index": index, "areas": self.areas, "version": __version__}

    def _page(self, template: str, root: str, **values: Any) -> bytes:
        text = self._environment.get_template(template).render(root=root, **values)
        return text.encode("utf-8", "replace")

    def assets(self) -> Pages:
        """Style, scripts and data."""
        files = {
            f"assets/{path.name}": path.read_bytes()
            for folder in ("assets", "vendor")
            for path in sorted((HERE / folder).iterdir())
        }
        pictures = {f"figures/{figure_name(*key)}": png for key, png in self.figures.items()}
        data = {"assets/catalog.js": catalog_js(self.index), "assets/texts.js": texts_js(self.index)}
        return files | pictures | data

    def overviews(self) -> Pages:
        """The pages that exist once: home, glossary, resources, starters."""
        counts = dict.fromkeys(self.areas, 0)
        for item in self.index.problems.values():
            counts[item["area"]] = counts.get(item["area"], 0) + 1
        example = next((key for key, item in self.index.problems.items() if item["starter"]), "")
        home = {"counts": counts, "choices": self._choices(), "example": example}
        return {
            "index.html": self._page("home.html", "", **home),
            "glossary.html": self._page("glossary.html", "", users=self._users(), concepts=self._glossary()),
            "resources.html": self._page("resources.html", "", kinds=KINDS),
            "starters.html": self._page(
                "starters.html", "", started=self._started(), figure=self._figure, figures=self.figures
            ),
        }

    def _choices(self) -> dict[str, list[tuple[str, str]]]:
        """What the list can be filtered by: (value, label) for each filter."""
        same = {"status": STATUS, "compute": COMPUTE, "coding": CODING, "hours": HOURS}
        starters = [("any", "has one"), ("exact", "has one that fits exactly")]
        return {
            **{name: [(value, value) for value in values] for name, values in same.items()},
            "difficulty": [("A", "A, easiest"), ("B", "B"), ("C", "C"), ("D", "D, hardest")],
            "area": [(slug, area["title"]) for slug, area in self.areas.items()],
            "starter": starters + [(name, name) for name in self.index.starters],
            "sort": [("difficulty", "easiest first"), ("hours", "shortest first"), ("title", "by title")],
        }

    def area(self, slug: str) -> bytes:
        """Guidance for an area, and its problems under the headings of its source."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for item in self.index.problems.values():
            if item["area"] == slug:
                groups.setdefault(self.index.whole(item)["subarea"], []).append(item)
        area = self.areas[slug]
        terms = markdown.Terms(self.index.concepts, "../")
        guidance = [
            {"heading": part["heading"], "text": markdown.block(part["text"], terms)}
            for part in area.get("sections") or self.index.area_texts.get(slug, [])
        ]
        values = {"area": area, "guidance": guidance, "groups": groups, "mentioned": terms.seen}
        return self._page("area.html", "../", **values)

    def problem(self, item: dict[str, Any]) -> bytes:
        """One problem with everything that the catalogue knows of it."""
        known = {slug: self.index.concepts[slug] for slug in item["concepts"] if slug in self.index.concepts}
        terms = markdown.Terms(known, "../")
        texts = {
            title: markdown.block(item["sections"].get(key, ""), terms) for key, title in SECTIONS.items()
        }
        return self._page(
            "problem.html",
            "../",
            item=item,
            texts=texts,
            concepts=known,
            experiment=self._experiment(item),
            changed=changed(item),
            works=self._works(item),
            related=[key for key in item["related"] if key not in self.index.hidden],
        )

    def _works(self, item: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
        """The works that bear on a problem, each with what it settles."""
        known = self.index.works
        return [(known[ref["work"]], ref["bearing"]) for ref in item["works"] if ref["work"] in known]

    def _experiment(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the problem's repo starts from: names, the experiment's facts, its figure."""
        reference = item["starter"]
        starter = self.index.starters.get(reference["name"]) if reference else None
        if not reference or starter is None:
            return None
        parameters = dict(reference["parameters"])
        name = str(parameters.pop(starter["selector"], ""))
        about = starter["experiments"].get(name)
        if about is None:
            return None
        fit = reference.get("fit", "exact")
        return {"starter": reference["name"], "name": name, "about": about, "knobs": parameters, "fit": fit}

    def _glossary(self) -> list[tuple[str, dict[str, Any]]]:
        return sorted(self.index.concepts.items(), key=lambda pair: one_line(pair[1]["term"]).casefold())

    def _users(self) -> dict[str, list[str]]:
        """Term -> the problems that need it."""
        users: dict[str, list[str]] = {}
        for key, item in self.index.problems.items():
            for slug in self.index.whole(item)["concepts"]:
                users.setdefault(slug, []).append(key)
        return users

    def _started(self) -> dict[tuple[str, str], list[str]]:
        """(starter, experiment) -> the problems that start from it."""
        started: dict[tuple[str, str], list[str]] = {}
        for key, item in self.index.problems.items():
            if found := self._experiment(item):
                started.setdefault((found["starter"], found["name"]), []).append(key)
        return started

    def _figure(self, starter: str, experiment: str) -> str:
        """The path of an experiment's figure, or nothing."""
        known = (starter, experiment) in self.figures
        return f"figures/{figure_name(starter, experiment)}" if known else ""


def figure_name(starter: str, experiment: str) -> str:
    """The file name of an experiment's figure."""
    return f"{starter}-{experiment}.png"


def read_figures(index: Index, folder: Path) -> dict[tuple[str, str], bytes]:
    """The pictures in ``folder`` of experiments that the index has."""
    known = ((name, run) for name, starter in index.starters.items() for run in starter["experiments"])
    return {
        pair: (folder / figure_name(*pair)).read_bytes()
        for pair in known
        if (folder / figure_name(*pair)).is_file()
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "inline": markdown.inline,
        "block": markdown.block,
        "initial": lambda text: next(_initials(text), "#"),
        "hours": lambda pair: f"{pair[0]:g} to {pair[1]:g} h" if pair[0] != pair[1] else f"{pair[0]:g} h",
        "query": lambda text: quote(clean(text), safe=""),
        "safe_link": markdown.safe_link,
    }
    environment.globals |= {"BASIS": BASIS, "address": address, "work_link": work_link}
    return environment


def _initials(text: str) -> Iterator[str]:
    return (character.upper() for character in text if character.isalnum())


def _shown(value: object) -> object:
    """What a template prints: text without control characters (Markup, which is a str too, stays)."""
    return clean(value) if type(value) is str else value


def work_link(work: Mapping[str, Any]) -> str:
    """The address of a work's page."""
    if work.get("arxiv"):
        return f"https://arxiv.org/abs/{work['arxiv']}"
    return f"https://doi.org/{work['doi']}" if work.get("doi") else str(work.get("url") or "")
