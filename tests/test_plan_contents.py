"""What a planned repo holds, and that the same question always gets the same bytes."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from baking import ABOUT, bake, problem, tiny  # noqa: F401

from mihack import shipped
from mihack.errors import MihackError
from mihack.scaffold import experiment, notebook, plan
from mihack.scaffold.plan import check_gpu as the_real_check_gpu

FILES = {
    ".github/workflows/ci.yml", ".gitignore", ".mihack.json", "AGENTS.md", "LICENSE", "PROBLEM.md",
    "README.md", "REPORT.md", "check_gpu.py", "expected.json", "experiment.py", "lab/__init__.py",
    "lab/comparison.py", "lab/knobs.py", "lab/report_page.py", "lab/report_text.py", "lab/results.py",
    "lab/runs.py", "report.py", "notebook.ipynb", "pyproject.toml",
    "requirements.txt", "tests/test_lab.py", "tests/test_repo.py",
}  # fmt: skip


def test_the_files_are_these() -> None:
    # comparison is a command in every repo; no other lab module that the experiment does not import
    assert set(bake()) == FILES


def test_every_file_is_text_with_unix_line_ends() -> None:
    for path, content in bake().items():
        text = content.decode("utf-8")
        assert "\r" not in text, path
        assert text.endswith("\n"), path


def test_the_same_question_gets_the_same_bytes() -> None:
    assert bake() == bake()
    assert bake(author="Ada") != bake()


def test_provenance_has_a_hash_of_every_other_file_and_no_time() -> None:
    files = bake(author="Ada", settings={"n": "20"})
    record = json.loads(files[".mihack.json"])
    assert record["files"] == {
        path: hashlib.sha256(content).hexdigest() for path, content in files.items() if path != ".mihack.json"
    }
    assert record["problem"] == "9.1"
    assert record["title"] == "Count to ten"
    assert record["parameters"]["N"] == 20
    assert record["answers"]["set"] == {"n": "20"}
    assert set(record) == {
        "format",
        "mihack",
        "problem",
        "title",
        "event",
        "starter",
        "experiment",
        "parameters",
        "answers",
        "files",
    }


def test_readme_says_what_to_run_what_to_expect_and_what_is_what() -> None:
    files = bake()
    readme = files["README.md"].decode()
    assert readme.startswith("# 9.1 Count to ten\n")
    assert "How far can one count?" in readme
    assert "    uv run experiment.py" in readme
    assert "    pip install -e ." in readme
    assert "| Sum | at least 55 | Gauss |" in readme
    for path in files:
        top = path.split("/")[0] + ("/" if "/" in path else "")
        assert f"`{top}`" in readme or top in {".github/", ".gitignore", "LICENSE", "README.md"}, top
    assert len(readme.splitlines()) < 90


class TestWhatToReplace:
    NEAR: ClassVar[dict[str, Any]] = {"name": "tiny", "parameters": {"task": "count"}, "fit": "near"}

    def readme(self, **starter: str) -> str:
        card = problem(models=["an abacus", "a slide rule"], starter={**self.NEAR, **starter})
        return bake(card)["README.md"].decode()

    def test_the_note_of_a_warm_up_and_the_models_and_question_of_its_card(self) -> None:
        section = self.readme(note="Put an *abacus* in place of the loop.").split("## What to replace\n")[1]
        section = section.split("\n## ")[0]
        assert section.startswith("\nPut an *abacus* in place of the loop.\n\n- **Model**: ")
        assert "an abacus; a slide rule" in section
        assert "what is left of it: Nothing." in section

    def test_a_warm_up_without_a_note_has_the_section_too(self) -> None:
        assert "## What to replace\n\n- **Model**: " in self.readme()

    def test_an_experiment_that_fits_has_nothing_to_replace(self) -> None:
        assert "What to replace" not in self.readme(fit="exact")

    def test_a_note_can_not_bring_html(self) -> None:
        assert "<script" not in self.readme(note="<script>alert(1)</script>")


def test_problem_page_has_the_whole_card() -> None:
    page = bake()["PROBLEM.md"].decode()
    for text in ("And why?", "Because.", "1. One.", "Two.", "**sum**: What adding gives.", "[A slate]"):
        assert text in page
    assert "Gauss (1784). [A sum](https://example.org/a): Found the closed form." in page


def test_the_map_has_six_to_ten_lines_each_for_a_file_that_exists() -> None:
    files = bake()
    lines = plan.purposes(files)
    assert 6 <= len(lines) <= 10
    assert all(name in files or any(p.startswith(name) for p in files) for name, _ in lines)


def test_every_planned_file_has_a_purpose() -> None:
    for path in bake():
        top = path.split("/")[0] + ("/" if "/" in path else "")
        assert plan.PURPOSES[top]


def test_requirements_are_the_same_in_all_three_places() -> None:
    files = bake()
    for requirement in (*experiment.REQUIREMENTS, "scikit-learn>=1.5,<2"):
        assert f'  "{requirement}",' in files["pyproject.toml"].decode()
        assert requirement in files["requirements.txt"].decode().splitlines()
        if not requirement.startswith("torch>"):  # Colab has its own
            assert requirement in files["notebook.ipynb"].decode()


def test_lab_is_copied_byte_for_byte() -> None:
    lab = Path(shipped.__file__).parent / "lab"
    files = bake()
    for path, content in files.items():
        if path.startswith("lab/"):
            assert content == (lab / Path(path).name).read_bytes()


def test_planning_imports_neither_pydantic_nor_yaml_nor_torch() -> None:
    code = (
        "import sys; from mihack.scaffold import plan, values, write, engine\n"
        "engine._environment()\n"
        "heavy = {'pydantic', 'yaml', 'rich', 'markdown_it', 'torch', 'requests', 'nbformat'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("github", ["", "ada/counting"])
def test_badge(github: str) -> None:
    notebook = json.loads(bake(problem(), github=github)["notebook.ipynb"])
    badge = "".join(notebook["cells"][1]["source"])
    if github:
        assert "https://colab.research.google.com/github/ada/counting/blob/main/notebook.ipynb" in badge
    else:
        assert "Upload notebook" in badge
        assert "](https://colab.research.google.com/)" in badge


def test_the_gpu_check_is_the_doctor_and_needs_no_mihack() -> None:
    source = the_real_check_gpu().decode()
    assert source == (Path(shipped.__file__).parent / "doctor.py").read_text(encoding="utf-8")
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{'.' * node.level}{node.module or ''}"]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "platform" in imported
    assert not [name for name in imported if name.startswith((".", "mihack"))]


class TestModelsThatTravel:
    """An experiment on an embedded model brings it along, in the repo and inside the notebook."""

    STEPS: ClassVar[dict[str, Any]] = {
        "models": ["dwarf"],
        "checkpoints": ["n"],
        "knobs": {**ABOUT["knobs"], "n": {"help": "a training step", "choices": None, "min": -1, "max": 9}},
    }

    @pytest.fixture
    def zoo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "zoo" / "dwarf" / "checkpoints").mkdir(parents=True)
        (tmp_path / "zoo" / "texts").mkdir()
        (tmp_path / "zoo" / "texts" / "rhyme.txt").write_text("one, two\n", encoding="utf-8")
        (tmp_path / "zoo" / "tokenizer.json").write_text("{}", encoding="utf-8")
        for name in experiment.MODEL_FILES:
            (tmp_path / "zoo" / "dwarf" / name).write_bytes(bytes(range(256)))
        (tmp_path / "zoo" / "dwarf" / "checkpoints" / "step00001.safetensors").write_bytes(b"early")
        monkeypatch.setattr(experiment, "zoo_dir", lambda: tmp_path / "zoo")
        return tmp_path / "zoo"

    def test_the_repo_holds_the_model_the_tokenizer_and_the_text(self, zoo: Path) -> None:
        files = bake(about={"models": ["dwarf"], "texts": ["rhyme"]})
        assert files["models/dwarf/model.safetensors"] == bytes(range(256))
        assert {"models/tokenizer.json", "models/dwarf/README.md", "texts/rhyme.txt"} <= set(files)
        assert not any("checkpoints" in path for path in files)

    @pytest.mark.parametrize(("step", "there"), [("1", True), ("2", False)])
    def test_the_checkpoint_comes_along_whose_step_a_knob_holds(
        self, zoo: Path, step: str, there: bool
    ) -> None:
        (zoo / "dwarf" / "checkpoints" / "step00002.safetensors").write_bytes(b"later")
        files = bake(about=self.STEPS, settings={"n": step})
        assert ("models/dwarf/checkpoints/step00001.safetensors" in files) is there
        assert ("models/dwarf/checkpoints/step00002.safetensors" in files) is not there

    def test_the_finished_model_needs_no_checkpoint(self, zoo: Path) -> None:
        files = bake(about=self.STEPS, settings={"n": "-1"})
        assert "models/dwarf/model.safetensors" in files
        assert not any("checkpoints" in path for path in files)

    def test_a_step_that_was_not_kept_is_an_error_that_lists_those_that_were(self, zoo: Path) -> None:
        with pytest.raises(MihackError, match="n=7: no such checkpoint") as caught:
            bake(about=self.STEPS, settings={"n": "7"})
        assert caught.value.hint == "dwarf has the steps 1; -1: the finished model"

    def test_the_notebook_alone_writes_the_same_bytes(
        self, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = bake(about={"models": ["dwarf"], "texts": ["rhyme"]})
        (cell,) = [
            cell
            for cell in json.loads(files["notebook.ipynb"])["cells"]
            if "mihack-models" in cell["metadata"].get("tags", [])
        ]
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        exec("".join(cell["source"]), {})
        for name in files:
            if name.startswith(("models/", "texts/")):
                assert Path(name).read_bytes() == files[name]

    def test_a_file_that_is_there_already_is_kept(
        self, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = notebook.models_source({"texts/rhyme.txt": b"ours"})
        monkeypatch.chdir(tmp_path)
        Path("texts").mkdir()
        Path("texts/rhyme.txt").write_bytes(b"theirs")
        exec(source, {})
        assert Path("texts/rhyme.txt").read_bytes() == b"theirs"

    def test_a_model_that_is_not_there_is_named(self, zoo: Path) -> None:
        with pytest.raises(MihackError, match="giant"):
            bake(about={"models": ["giant"]})
