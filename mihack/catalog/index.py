"""The index at run time: load, find, filter.  Nothing here imports more than json and os.

It comes in two files, so that ``list`` reads little: catalog.json has what is listed and filtered
by, texts.json the rest (texts, glossary, works, resources, starters), read when first asked for.

``mihack list`` must answer within a few times the start of Python itself, so pydantic, yaml and
Markdown stay out; a user's own folder is checked and built by ``layers``, imported only then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence

from mihack.errors import MihackError
from mihack.shipped import index_file, texts_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 2
LISTED = ("problems", "areas")
READ_LATER = ("concepts", "resources", "works", "starters")
KINDS = LISTED + READ_LATER
ENVIRONMENT = "MIHACK_CATALOG"


def natural(key: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 3.9 before 3.10, and numbers before series such as NP001.

    >>> sorted(["3.10", "NP2", "3.9", "NP10"], key=natural)
    ['3.9', '3.10', 'NP2', 'NP10']
    """
    parts: list[tuple[int, int, str]] = []
    digits = word = ""
    for character in key + "\0":
        if "0" <= character <= "9":
            digits += character
            continue
        if digits:
            parts += [(1, 0, word)] if word.strip(".-") else []
            parts.append((0, int(digits), ""))
            digits = word = ""
        word += character
    if word != "\0":
        parts.append((1, 0, word))
    return parts


class Index:
    """The shipped catalogue with any user folders laid over it."""

    concepts: dict[str, Any]
    resources: dict[str, Any]
    works: dict[str, Any]
    starters: dict[str, Any]
    texts: dict[str, Any]

    def __init__(self, data: dict[str, Any], later: Callable[[], dict[str, Any]] | None = None) -> None:
        """``data`` has at least problems and areas; ``later`` gives what it lacks, when first needed."""
        self.problems: dict[str, Any] = data["problems"]
        self.areas: dict[str, Any] = data["areas"]
        self._later = later or (lambda: data)
        self.layered = False  # whether a user's folder lies over the shipped catalogue

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: read the second half of the index."""
        if name not in (*READ_LATER, "texts"):
            raise AttributeError(name)
        rest = self._later()
        for kind in (*READ_LATER, "texts"):
            self.__dict__.setdefault(kind, rest.get(kind, {}))
        return self.__dict__[name]

    def whole(self, item: dict[str, Any]) -> dict[str, Any]:
        """A problem with its ``sections``; those of a user's folder already have theirs."""
        if "sections" in item:
            return item
        return {**item, "sections": self.texts.get(item["id"], {})}

    def problem(self, number: str) -> dict[str, Any]:
        """The problem with this id, in any case, with its texts; else an error that names close ids."""
        wanted = number.strip()
        for key in (wanted, *(key for key in self.problems if key.lower() == wanted.lower())):
            if key in self.problems:
                return self.whole(self.problems[key])
        close = self.close_ids(wanted)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`mihack list` shows all ids."
        raise MihackError(f"There is no problem {number!r}.", hint=hint)

    def close_ids(self, number: str) -> list[str]:
        """Up to three ids that look like ``number``; first those with that number in the post."""
        import difflib

        posted = [key for key, item in self.problems.items() if item["post_id"] == number]
        upper = {key.upper(): key for key in self.problems}
        near = difflib.get_close_matches(number.upper()[:40], upper, n=3, cutoff=0.5)
        return list(dict.fromkeys(posted + [upper[key] for key in near]))[:3]

    def concept(self, term: str) -> tuple[str, dict[str, Any]]:
        """(slug, concept) for a slug, a term or an alias; else an error that names close terms."""
        names: dict[str, str] = {}
        for slug, item in self.concepts.items():
            for name in (slug, item["term"], *item["aliases"]):
                names.setdefault(fold(name), slug)
        slug = names.get(fold(term), "")
        if slug:
            return slug, self.concepts[slug]
        import difflib

        close = difflib.get_close_matches(fold(term)[:80], names, n=5, cutoff=0.6)
        terms = list(dict.fromkeys(self.concepts[names[name]]["term"] for name in close))
        hint = f"Did you mean {' or '.join(terms)}?" if terms else "`mihack explain` lists all terms."
        raise MihackError(f"The glossary has no {term!r}.", hint=hint)


def fold(text: str) -> str:
    """``text`` for comparing: case, hyphens and underscores do not matter."""
    return " ".join(text.casefold().replace("-", " ").replace("_", " ").split())


def load(folders: Sequence[str | os.PathLike[str]] = (), *, cache: bool = False) -> Index:
    """The shipped index, then the folders of MIHACK_CATALOG, then ``folders``; the later wins.

    With ``cache`` a checked folder is kept under XDG_CACHE_HOME/mihack by its content, if that
    can be written.  ``new`` leaves it off: it must not touch the home folder.
    """
    data, layers = shipped(index_file()), []
    for folder in (*environment_folders(), *folders):
        from mihack.catalog.layers import read_layer

        layers.append(read_layer(os.fspath(folder), cache=cache))
        lay_over(data, layers[-1], LISTED)

    def later() -> dict[str, Any]:
        rest = shipped(texts_file())
        for layer in layers:
            lay_over(rest, layer, READ_LATER)
        return rest

    index = Index(data, later)
    index.layered = bool(layers)
    return index


def shipped(path: str) -> dict[str, Any]:
    """One of the two files of the index that comes with mihack."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 (no pathlib here)
            data: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        hint = "In a checkout, run `make catalog`; otherwise install mihack again."
        raise MihackError(f"The catalogue {path} cannot be read: {error}", hint=hint) from error
    if data.get("format") != FORMAT:
        raise MihackError(f"{path} has another format than this mihack.", hint="Run `make catalog`.")
    return data


def everything() -> dict[str, Any]:
    """Both files of the shipped index in one, without the problems' texts."""
    return {**shipped(texts_file()), **shipped(index_file())}


def environment_folders() -> list[str]:
    """The folders named by MIHACK_CATALOG, separated as PATH is."""
    return [name for name in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if name]


def lay_over(data: dict[str, Any], layer: dict[str, Any], kinds: Iterable[str]) -> None:
    """Put a layer's entries over those in ``data``, and the problems back into natural order."""
    for kind in kinds:
        data[kind].update(layer.get(kind, {}))
    if "problems" not in kinds:
        return
    problems = data["problems"]
    data["problems"] = {key: problems[key] for key in sorted(problems, key=natural)}


def unknown(what: str, value: str, known: Iterable[str]) -> MihackError:
    """The error for a filter's value that nothing has."""
    import difflib

    words = sorted(known)
    close = difflib.get_close_matches(value[:80], words, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(words)}."
    return MihackError(f"No {what} {value!r}.", hint=hint)
