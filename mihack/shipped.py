"""Where mihack's own files are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    inside = _PACKAGE / "_shipped" / name
    # A wheel carries its own copy; in a checkout there is none, and the folders sit beside mihack/.
    return inside if inside.is_dir() else _PACKAGE.parent / name


def catalog_dir() -> Path:
    """The folder of cards: areas/, problems/, concepts/, resources.yaml, works.yaml."""
    return _shipped("catalog")


def templates_dir() -> Path:
    """The folder of templates: project/ and starters/<name>/."""
    return _shipped("templates")


def index_path() -> Path:
    """The built index, which the commands read with ``json`` alone."""
    return _PACKAGE / "catalog.json"
