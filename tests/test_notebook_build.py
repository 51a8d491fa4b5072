"""The notebook is valid, always the same, and holds the cells of the script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import nbformat
import pytest
from baking import bake, tiny  # noqa: F401

from mihack.scaffold import notebook, percent

ADDED = ["mihack-badge", "mihack-setup", "mihack-check"]


@pytest.fixture
def built() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(bake()["notebook.ipynb"])
    return loaded


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tag(cell: dict[str, Any]) -> str:
    return "".join(cell["metadata"].get("tags", []))


def test_it_is_valid_nbformat(built: dict[str, Any]) -> None:
    nbformat.validate(built)
    assert (built["nbformat"], built["nbformat_minor"]) == (4, 5)
    assert built["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["outputs"] == [] for cell in built["cells"] if cell["cell_type"] == "code")


def test_its_cells_are_those_of_the_script(built: dict[str, Any]) -> None:
    script = percent.parse(bake()["experiment.py"].decode())
    own = [(cell["cell_type"], source(cell)) for cell in built["cells"] if not tag(cell)]
    assert own == [(cell.kind, cell.source) for cell in script.cells]


def test_title_badge_set_up_and_check_come_first(built: dict[str, Any]) -> None:
    assert source(built["cells"][0]).startswith("# 9.1 Count to ten")
    assert [tag(cell) for cell in built["cells"][1:4]] == ADDED
    for cell in built["cells"][2:4]:
        assert source(cell).startswith("#@title ")
        assert cell["metadata"]["jupyter"]["source_hidden"]


def test_cell_ids_depend_on_problem_and_place_alone(built: dict[str, Any]) -> None:
    ids = [cell["id"] for cell in built["cells"]]
    assert ids == [notebook.cell_id("9.1", place) for place in range(len(ids))]
    assert len(set(ids)) == len(ids)
    assert notebook.cell_id("9.2", 0) != ids[0]


def run_setup(built: dict[str, Any], folder: Path, python: str = sys.executable) -> str:
    code = source(built["cells"][2])
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_set_up_brings_the_files_and_keeps_those_that_are_there(
    built: dict[str, Any], tmp_path: Path
) -> None:
    files = bake()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "knobs.py").write_text("mine = 1\n")
    run_setup(built, tmp_path)
    assert (tmp_path / "lab" / "knobs.py").read_text() == "mine = 1\n"
    carried = {path for path in files if path.startswith("lab/")} | {"check_gpu.py", "expected.json"}
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert made == carried
    for path in carried - {"lab/knobs.py"}:
        assert (tmp_path / path).read_bytes() == files[path]


def test_set_up_pins_the_torch_and_numpy_that_are_there(built: dict[str, Any], tmp_path: Path) -> None:
    """In an environment with torch and numpy but no TransformerLens, as in Colab."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = place.rglob("site-packages")
    for name, version in (("torch", "2.6.0+cu124"), ("numpy", "2.0.2")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    # a pip that says what it was asked to do
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(
        "import sys; from pathlib import Path\n"
        "print(sys.argv[1:]); print(Path(sys.argv[sys.argv.index('-c') + 1]).read_text())\n"
    )
    out = run_setup(built, tmp_path, str(python))
    assert "torch==2.6.0+cu124\nnumpy==2.0.2" in out
    assert "'transformer-lens>=4.3,<5', 'matplotlib>=3.8,<4'" in out
    assert "'torch" not in out
    assert "numpy>" not in out


def test_set_up_installs_nothing_where_nothing_is_missing(built: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformer_lens")
    code = source(built["cells"][2])
    trap = "import subprocess\ndef no(*a, **k): raise SystemExit('pip was called')\nsubprocess.run = no\n"
    done = subprocess.run([sys.executable, "-c", trap + code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_set_up_leaves_no_knob_behind(built: dict[str, Any]) -> None:
    """lab.knobs takes every UPPER_CASE literal for a knob, so the added cells may set none."""
    for cell in built["cells"][2:4]:
        names = compile(source(cell), "cell", "exec").co_names
        assert not [name for name in names if name.isupper()]
