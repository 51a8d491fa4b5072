"""Cookiecutter's template environment, rendering a template folder in memory.

Not ``cookiecutter()`` itself: that renders the *values* as templates, runs hooks, writes every
answer to the user's home, renders the output's absolute path again, follows symlinks and leaves
half a project behind on an error. Here the template is always ours, the values are data, and the
result is a dict. ``tests/test_plan_engine.py`` shows that the bytes are those of
``cookiecutter.generate.generate_files``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MihackError
from .paths import confined

if TYPE_CHECKING:
    from jinja2 import Environment

ROOT = "{{cookiecutter.repo_name}}"


def render(template: Path, values: Mapping[str, object]) -> dict[str, bytes]:
    """Render every file under ``template/{{cookiecutter.repo_name}}`` -> {relative path: bytes}."""
    root = template / ROOT
    environment = _environment()
    context = {"cookiecutter": dict(values)}
    rendered: dict[str, bytes] = {}
    for path in files_under(root):
        relative = path.relative_to(root).as_posix()
        name = environment.from_string(relative).render(context)
        source = path.read_text(encoding="utf-8")
        rendered[confined(name)] = environment.from_string(source).render(context).encode()
    return rendered


def files_under(root: Path) -> list[Path]:
    """The files below ``root``, sorted. Refuses symlinks: a template must hold its own text."""
    found: list[Path] = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            if entry.is_symlink():
                raise MihackError(f"the template holds a symlink: {path}")
            if entry.is_dir():
                found += files_under(path) if entry.name != "__pycache__" else []
            else:
                found.append(path)
    return found


def _environment() -> Environment:
    from cookiecutter.environment import StrictEnvironment
    from jinja2 import Environment, StrictUndefined

    class PureEnvironment(StrictEnvironment):  # type: ignore[misc]
        """Cookiecutter's, without its extensions: no clock, no dice, none that a template names.

        A plan must be the same each time, and loading them would cost 35 ms.
        """

        def __init__(self) -> None:
            Environment.__init__(self, undefined=StrictUndefined, keep_trailing_newline=True)

    environment: Environment = PureEnvironment()
    return environment
