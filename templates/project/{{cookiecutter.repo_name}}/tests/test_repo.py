"""Does the repo still hold together? Under a minute: nothing here trains for long.

    pytest
    python tests/test_repo.py --update      copy the cells of experiment.py into notebook.ipynb
"""

import json
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
ADDED = {"mihack-badge", "mihack-setup", "mihack-models", "mihack-check"}  # cells that only the notebook has


def read_json(name):
    return json.loads((REPO / name).read_text(encoding="utf-8"))


def script_cells():
    """The cells of experiment.py: (kind, source). Text before the first marker is no cell."""
    text = (REPO / "experiment.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %%(?:$| (.*)$)", text, flags=re.M)[1:]
    cells = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        if (head or "").startswith("[markdown]"):
            lines = [re.sub(r"^\\(\\*%%)", r"\1", line[2:]) for line in body.strip("\n").split("\n")]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", body.strip("\n")))
    return cells


def notebook_cells(notebook):
    return [cell for cell in notebook["cells"] if not ADDED & set(cell["metadata"].get("tags", []))]


def test_notebook_has_the_cells_of_the_script():
    cells = notebook_cells(read_json("notebook.ipynb"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == script_cells()


def test_notebook_carries_the_files_that_it_needs():
    cells = read_json("notebook.ipynb")["cells"]
    (setup,) = [cell for cell in cells if "mihack-setup" in cell["metadata"].get("tags", [])]
    for path in [REPO / "check_gpu.py", REPO / "expected.json", *(REPO / "lab").glob("*.py")]:
        assert path.relative_to(REPO).as_posix() in "".join(setup["source"])


def test_every_expected_row_has_one_bound():
    for row in read_json("expected.json")["rows"]:
        assert row["metric"]
        assert row["label"]
        assert len({"at_least", "at_most", "between"} & set(row)) == 1


def test_a_short_run_measures_everything(tmp_path):
    expected = read_json("expected.json")
    short = ["--steps", "5"] if "STEPS" in expected["knobs"] else []
    flags = [*short, "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "experiment.py", *flags], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert {row["metric"] for row in expected["rows"]} <= set(metrics)
    assert list((run / "figures").glob("*.png"))


def update_notebook():
    """Write the cells of experiment.py into the notebook; badge, set-up and check stay."""
    notebook = read_json("notebook.ipynb")
    added = [cell for cell in notebook["cells"] if ADDED & set(cell["metadata"].get("tags", []))]
    own = []
    for kind, source in script_cells():
        cell = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
        own.append(cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []})
    notebook["cells"] = [*own[:1], *added, *own[1:]]
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (REPO / "notebook.ipynb").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    update_notebook()
