"""Run a notebook top to bottom under a kernel of this Python, in the current folder.

    python scripts/run_notebook.py path/to/notebook.ipynb

Nothing but what the notebook writes is left behind.  An error in a cell ends it with that error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

SECONDS = 900  # for one cell


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs.  Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as jupyter:
        place = Path(jupyter, "kernels", "python3")
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": "Python 3", "language": "python"}
        (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = jupyter
        # a backend of the environment would hide the figures; the kernel has its own
        os.environ.pop("MPLBACKEND", None)
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    return notebook


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), Path.cwd())
    except CellExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}")
