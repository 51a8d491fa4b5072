"""Where mihack's own files are: beside the package in a checkout, inside it in a wheel.

``mihack list`` reads the index and nothing else, so pathlib (5 ms, a third of Python's own start)
is imported only by the functions that give a Path.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_PACKAGE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120


def _shipped(name: str) -> Path:
    from pathlib import Path

    inside = Path(_PACKAGE, "_shipped", name)
    # A wheel carries its own copy; in a checkout there is none, and the folders sit beside mihack/.
    return inside if inside.is_dir() else Path(_PACKAGE).parent / name


def catalog_dir() -> Path:
    """The folder of cards: areas/, problems/, concepts/, resources.yaml, works.yaml."""
    return _shipped("catalog")


def templates_dir() -> Path:
    """The folder of templates: project/ and starters/<name>/."""
    return _shipped("templates")


def gallery_dir() -> Path:
    """The folder of figures, one per experiment that has one; it may be missing."""
    from pathlib import Path

    inside = Path(_PACKAGE, "_shipped", "gallery")
    return inside if inside.is_dir() else Path(_PACKAGE).parent / "docs" / "gallery"


def index_file() -> str:
    """The built index as a string, for the reader that imports no pathlib."""
    return os.path.join(_PACKAGE, "catalog.json")  # noqa: PTH118


def texts_file() -> str:
    """The other half of the index: texts, glossary, works, resources and starters."""
    return os.path.join(_PACKAGE, "texts.json")  # noqa: PTH118


def index_path() -> Path:
    """The built index, which the commands read with ``json`` alone."""
    from pathlib import Path

    return Path(index_file())


def texts_path() -> Path:
    """The texts that belong to the index."""
    from pathlib import Path

    return Path(texts_file())
