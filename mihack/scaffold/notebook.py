"""The notebook, built as data: a script's cells after a badge, a set-up and a GPU check.

The set-up cell carries ``lab/``, ``check_gpu.py`` and ``expected.json`` and writes each where it is
missing, so that the .ipynb runs alone in an empty folder, as it does when uploaded to Colab.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from .percent import Cell

COLAB = "https://colab.research.google.com/"
BADGE = f"{COLAB}assets/colab-badge.svg"

_CHECK = """\
#@title GPU check: is this machine ready, and is its device right? {display-mode: "form"}
import subprocess
import sys

check = subprocess.run([sys.executable, "check_gpu.py"], capture_output=True, text=True)
print(check.stdout + check.stderr)"""

_SETUP = '''\
#@title Set-up: packages and files, only what is missing {{display-mode: "form"}}
import json
from pathlib import Path


def install_missing():
    """Install TransformerLens beside the torch and numpy that are here, which stay as they are."""
    import importlib.metadata
    import subprocess
    import sys
    import tempfile

    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    here = version("transformer-lens")
    if here and tuple(map(int, here.split(".")[:2])) >= {least} and all(map(version, {names})):
        return
    keep = [f"{{name}}=={{version(name)}}" for name in ("torch", "numpy") if version(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\\n".join(keep))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints)]
        subprocess.run([*pip, {packages}], check=True)


def write_missing(files):
    """Write the files that the cells below import, except those that are already here."""
    for name, text in files.items():
        path = Path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\\n")


install_missing()
write_missing(json.loads({files}))'''

_MODELS = """\
#@title Models and texts: they travel in this cell, compressed {{display-mode: "form"}}
import base64
import zlib
from pathlib import Path

for name, packed in {files}.items():
    path = Path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.decompress(base64.b85decode(packed)))"""


def build(
    cells: Sequence[Cell],
    *,
    problem_id: str,
    carried: Mapping[str, bytes],
    models: Mapping[str, bytes],
    requirements: Sequence[str],
    github: str = "",
) -> dict[str, Any]:
    """The notebook as a dict in nbformat 4.5: title, badge, set-up, GPU check, then the rest."""
    extra = [
        _cell(Cell("markdown", badge(github)), "mihack-badge"),
        _cell(Cell("code", setup_source(carried, requirements)), "mihack-setup", hidden=True),
        _cell(Cell("code", _CHECK), "mihack-check", hidden=True),
    ]
    if models:
        extra.insert(2, _cell(Cell("code", models_source(models)), "mihack-models", hidden=True))
    own = [_cell(cell) for cell in cells]
    ordered = [*own[:1], *extra, *own[1:]]
    for place, cell in enumerate(ordered):
        cell["id"] = cell_id(problem_id, place)
    return {
        "cells": ordered,
        "metadata": {
            "accelerator": "GPU",
            "colab": {"provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def to_bytes(notebook: Mapping[str, Any]) -> bytes:
    """The .ipynb file, byte for byte the same for the same notebook."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    return (text + "\n").encode()  # every text in it is clean by now


def cell_id(problem_id: str, place: int) -> str:
    """A cell id that depends on the problem and the cell's place alone."""
    return hashlib.sha256(f"{problem_id}:{place}".encode("utf-8", "replace")).hexdigest()[:12]


def badge(github: str) -> str:
    """The Colab badge: to the notebook on GitHub if we know where, else to Colab's own page."""
    if github:
        link = f"{COLAB}github/{github}/blob/main/notebook.ipynb"
        return f"[![Open in Colab]({BADGE})]({link})\n\nOpens `{github}` as it is on GitHub."
    return (
        f"[![Open Colab]({BADGE})]({COLAB})\n\n"
        "This notebook has no GitHub address yet: in Colab choose *File > Upload notebook* and "
        "pick this file. It needs no other; the next cell brings what is missing. For a badge that "
        "opens it directly, change the link to "
        f"`{COLAB}github/OWNER/REPO/blob/main/notebook.ipynb`."
    )


def setup_source(carried: Mapping[str, bytes], requirements: Sequence[str]) -> str:
    """The set-up cell. The files travel as one JSON string, so no text in them can end it early."""
    files = {path: content.decode() for path, content in sorted(carried.items())}
    lens = next(name for name in requirements if name.startswith("transformer-lens"))
    least = lens.split(">=")[1].split(",")[0].split(".")
    packages = [name for name in requirements if not name.startswith("torch>")]
    return _SETUP.format(
        files=repr(json.dumps(files, ensure_ascii=True)),
        names=[re.split(r"[<>=!~\[ ]", name)[0] for name in packages],
        packages=", ".join(map(repr, packages)),
        least=f"({int(least[0])}, {int(least[1])})",
    )


def models_source(models: Mapping[str, bytes]) -> str:
    """The cell that writes models and texts: bytes as base85 of zlib, a quarter more than the file."""
    packed = {
        path: base64.b85encode(zlib.compress(data, 9)).decode() for path, data in sorted(models.items())
    }
    return _MODELS.format(files=repr(packed))


def _cell(cell: Cell, tag: str = "", *, hidden: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tags": [tag]} if tag else {}
    if hidden:
        metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    lines = cell.source.split("\n")
    source = [line + "\n" for line in lines[:-1]] + lines[-1:]
    data: dict[str, Any] = {"cell_type": cell.kind, "metadata": metadata, "source": source}
    if cell.kind == "code":
        data |= {"execution_count": None, "outputs": []}
    return data
