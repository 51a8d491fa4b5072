"""The index at run time: load, find, filter.  Nothing here imports more than json and os.

It comes in two files, so that ``list`` reads little: catalog.json has what is listed and filtered
by, texts.json the rest (the other fields and the texts, glossary, works, resources, starters), read
when first asked for.

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

    Loaded = dict[str, Any]

FORMAT = 3
LISTED = ("problems", "areas")
READ_LATER = ("concepts", "resources", "works", "starters")
KINDS = LISTED + READ_LATER
SECOND_HALF = (*READ_LATER, "cards", "area_texts")
# what one sees and filters by in a list; the other fields of a problem are read later
LISTED_FIELDS = (
    "id",
    "post_id",
    "title",
    "area",
    "difficulty",
    "status",
    "hours",
    "compute",
    "coding",
    "tags",
    "starter",
)
ENVIRONMENT = "MIHACK_CATALOG"


def natural(key: str) -> list[tuple[int, int, str]]:
    """A sort key that puts 3.9 before 3.10, and numbers before series such as NP001.

    >>> sorted(["3.10", "NP2", "3.9", "NP10"], key=natural)
    ['3.9', '3.10', 'NP2', 'NP10']
    """
    before = key.rstrip("0123456789")
    if before != key and (before.isalpha() or before[:-1].isalpha()):  # NP001, X-12: a quick way
        return [(1, 0, before), (0, int(key[len(before) :]), "")]
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
    cards: dict[str, Any]
    area_texts: dict[str, Any]

    def __init__(self, listed: Loaded, later: Callable[[], Loaded] | None = None) -> None:
        """``listed`` has at least problems and areas; ``later`` gives what it lacks, when first needed."""
        self.problems: dict[str, Any] = listed["problems"]
        self.areas: dict[str, Any] = listed["areas"]
        self.event: dict[str, Any] | None = None
        self.hidden: dict[str, str] = {}  # id -> who hides it
        self.changed: dict[str, Any] = {}  # id -> {"by", "reason", "was"}
        self.layers: list[str] = []  # what the folders above the shipped catalogue are known by
        self._rest = [later or (lambda: listed)]

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: read the second half of the index."""
        if name not in SECOND_HALF:
            raise AttributeError(name)
        for later in self._rest:
            self._read(later())
        return self.__dict__[name]

    def _read(self, rest: Loaded) -> None:
        for kind in SECOND_HALF:
            self.__dict__[kind] = {**self.__dict__.get(kind, {}), **rest.get(kind, {})}

    def lay_over(
        self, listed: Loaded, later: Callable[[], Loaded], *, key: str = "", name: str = "this catalogue"
    ) -> None:
        """Put a folder over what is here: its entries, then what its overlay hides and changes.

        ``name`` stands for the folder where it has no event to be named after.
        """
        own = listed["problems"]
        last, first = next(reversed(self.problems), ""), next(iter(own), "")
        self.problems = {**self.problems, **own}
        self.areas = {**self.areas, **listed["areas"]}
        for number in own:
            self.hidden.pop(number, None)
            self.changed.pop(number, None)
        if natural(last) > natural(first) and own:  # each half is in order: often so is the whole
            self.problems = {number: self.problems[number] for number in sorted(self.problems, key=natural)}
        overlay = listed.get("overlay") or {}
        self.event = overlay.get("event") or self.event
        by = overlay["event"]["name"] if overlay.get("event") else name
        self._hide(overlay, own, by)
        for change in overlay.get("change", []):
            self._change(change, by)
        if "cards" in self.__dict__:  # the second halves have been read already
            self._read(later())
        self._rest.append(later)
        self.layers.append(key)

    def _hide(self, overlay: Loaded, own: Loaded, by: str) -> None:
        """A folder's own problems go only if it names them one by one."""
        named, areas, only = (set(overlay.get(field) or ()) for field in ("hide", "hide_areas", "only"))
        for number in [*self.problems] if named or areas or only else ():
            shut_out = number not in own and (
                self.problems[number]["area"] in areas or (only and number not in only)
            )
            if number in named or shut_out:
                self.hidden[number] = by
                del self.problems[number]

    def _change(self, change: Loaded, by: str) -> None:
        item = self.problems.get(change["problem"])
        new = {
            field: value for field, value in change.items() if value is not None and field in LISTED_FIELDS
        }
        if item is None:
            return  # hidden by the same folder
        was = self.changed.get(item["id"], {}).get("was", {})
        was = {field: was.get(field, item[field]) for field in (*was, *new)}
        self.changed[item["id"]] = {"by": by, "reason": change["reason"], "was": was}
        self.problems[item["id"]] = {**item, **new}

    def entries(self) -> dict[str, Any]:
        """Everything that a card may name: {kind: {key: entry}}; hidden problems may still be named."""
        problems = {**dict.fromkeys(self.hidden), **self.problems}
        return {"problems": problems, "areas": self.areas} | {
            kind: getattr(self, kind) for kind in READ_LATER
        }

    def whole(self, item: dict[str, Any]) -> dict[str, Any]:
        """A problem with all its fields and its ``sections``; and ``changed``, if a folder changed it."""
        card = item if "sections" in item else {**item, **self.cards.get(item["id"], {"sections": {}})}
        changed = self.changed.get(item["id"])
        return {**card, "changed": changed} if changed else card

    def problem(self, number: str) -> dict[str, Any]:
        """The problem with this id, in any case, with its texts; else an error that names close ids."""
        wanted = number.strip()
        for key in (wanted, *(key for key in self.problems if key.lower() == wanted.lower())):
            if key in self.problems:
                return self.whole(self.problems[key])
        for key in self.hidden:
            if key.lower() == wanted.lower():
                hint = "It is there without --catalog and MIHACK_CATALOG."
                raise MihackError(f"Problem {key} is hidden by {self.hidden[key]}.", hint=hint)
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

    Each folder is checked over what lies below it.  With ``cache`` a checked folder is kept under
    XDG_CACHE_HOME/mihack by its content, if that can be written.  ``new`` leaves it off: it must
    not touch the home folder.
    """
    return _laid([*environment_folders(), *folders], cache)


def load_below(root: str | os.PathLike[str], folders: Sequence[str | os.PathLike[str]] = ()) -> Index:
    """What ``load`` would lay the folder ``root`` over: everything that comes before it."""
    below = [*environment_folders(), *folders]
    places = [os.path.realpath(folder) for folder in below]
    place = os.path.realpath(root)
    return _laid(below[: places.index(place)] if place in places else below, cache=False)


def _laid(folders: Sequence[str | os.PathLike[str]], cache: bool) -> Index:
    index = load_shipped()
    for folder in folders:
        from mihack.catalog.layers import read_layer

        name = os.fspath(folder)
        layer = read_layer(name, index, cache=cache)
        index.lay_over(layer.listed, layer.rest, key=layer.key, name=name)
    return index


def load_shipped() -> Index:
    """The catalogue that comes with mihack, and nothing over it."""
    return Index(shipped(index_file()), lambda: shipped(texts_file()))


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


def environment_folders() -> list[str]:
    """The folders named by MIHACK_CATALOG, separated as PATH is."""
    return [name for name in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if name]


def unknown(what: str, value: str, known: Iterable[str]) -> MihackError:
    """The error for a filter's value that nothing has."""
    import difflib

    words = sorted(known)
    close = difflib.get_close_matches(value[:80], words, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(words)}."
    return MihackError(f"No {what} {value!r}.", hint=hint)
