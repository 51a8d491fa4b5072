"""`mihack diff`: what changed since the repo was made, as text that other tools can apply."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mihack import cli
from mihack.catalog.index import load
from mihack.scaffold import changes
from mihack.scaffold.generated_repo import GeneratedRepo
from mihack.scaffold.plan import Answers, plan

INDEX = load()
ANSWERS = Answers(name="ours", author="Ada", github="ada/ours", settings={"steps": "400"})
FILES = plan(INDEX.problem("3.16"), ANSWERS, INDEX)

Diff = Callable[..., tuple[str, str]]


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "our-repo"
    for path, content in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    monkeypatch.chdir(root)
    monkeypatch.delenv("COLUMNS", raising=False)
    return root


@pytest.fixture
def diff(repo: Path, capsys: pytest.CaptureFixture[str]) -> Diff:
    def ask(*arguments: str) -> tuple[str, str]:
        assert cli.run(["diff", *arguments]) == 0
        done = capsys.readouterr()
        return done.out, done.err

    return ask


def states(diff: Diff, *arguments: str) -> dict[str, str]:
    return {entry["path"]: entry["state"] for entry in json.loads(diff("--json", *arguments)[0])}


class TestWhatChanged:
    def test_a_repo_as_it_was_made_has_no_diff_whatever_the_answers(self, diff: Diff) -> None:
        assert diff() == ("", "Nothing has changed since it was made.\n")
        assert states(diff) == {}

    def test_changed_new_and_deleted_files(self, repo: Path, diff: Diff) -> None:
        (repo / "LICENSE").unlink()
        (repo / "experiment.py").write_text("print(1)\n", encoding="utf-8")
        (repo / "figures").mkdir()
        (repo / "figures" / "a.txt").write_text("a\n", encoding="utf-8")
        want = {"LICENSE": "deleted", "experiment.py": "changed", "figures/a.txt": "new"}
        assert states(diff) == want

    def test_results_caches_and_hidden_files_are_left_out(self, repo: Path, diff: Diff) -> None:
        for name in (
            "results/r/metrics.json",
            "lab/__pycache__/x.pyc",
            ".venv/x.py",
            ".DS_Store",
            "a.egg-info/x",
        ):
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            (repo / name).write_text("x", encoding="utf-8")
        assert states(diff) == {}

    def test_files_and_folders_limit_it(
        self, repo: Path, diff: Diff, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("lab/train.py", "lab/knobs.py", "experiment.py"):
            (repo / name).write_text("x = 1\n", encoding="utf-8")
        assert list(states(diff, "lab")) == ["lab/knobs.py", "lab/train.py"]
        monkeypatch.chdir(repo / "lab")
        assert list(states(diff, "train.py", "../experiment.py")) == ["experiment.py", "lab/train.py"]

    def test_lines_are_counted(self, repo: Path, diff: Diff) -> None:
        path = repo / "requirements.txt"
        _, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join([*rest, "einops\n", "pandas\n"]), encoding="utf-8")
        assert json.loads(diff("--json")[0]) == [
            {"path": "requirements.txt", "state": "changed", "added": 2, "removed": 1}
        ]
        assert diff("--stat")[0].split() == ["+2", "-1", "changed", "requirements.txt"]


class TestThePatch:
    @pytest.mark.skipif(not shutil.which("git"), reason="needs git")
    def test_git_applies_it_to_the_repo_as_it_was_made(self, repo: Path, diff: Diff, tmp_path: Path) -> None:
        (repo / "LICENSE").unlink()
        (repo / "ours.py").write_text("print('ours')\r\nno end", encoding="utf-8", newline="")
        text = (repo / "experiment.py").read_text(encoding="utf-8")
        (repo / "experiment.py").write_text(
            "# ours\n" + text.replace("SEED", "SEEDS", 1) + "x = 'é'", "utf-8"
        )
        patch = diff()[0]
        fresh = tmp_path / "fresh"
        for path, content in FILES.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=fresh, check=True)
        for name in ("ours.py", "experiment.py"):
            assert (fresh / name).read_bytes() == (repo / name).read_bytes()
        assert not (fresh / "LICENSE").exists()

    @given(st.text("ab\n\r\x0c ", max_size=30), st.text("ab\n\r\x0c ", max_size=30))
    def test_it_holds_every_line_that_came_or_went(self, before: str, after: str) -> None:
        lines = lines_between(before, after)
        kept = [line[1:] for line in lines[2:] if line[:1] == " "]
        added = [line[1:] for line in lines[2:] if line[:1] == "+"]
        removed = [line[1:] for line in lines[2:] if line[:1] == "-"]
        old, new = before.removesuffix("\n").split("\n"), after.removesuffix("\n").split("\n")
        if before and after and before != after:
            assert sorted(kept + removed) == sorted(old)
            assert sorted(kept + added) == sorted(new)
        assert changes.counted(lines) == (len(added), len(removed))

    def test_of_a_notebook_the_cells_are_shown(self, repo: Path, diff: Diff) -> None:
        path = repo / "notebook.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "hi"}]
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert diff()[0] == ""
        assert diff("--stat")[0].split()[:2] == ["outputs", "only"]
        code["source"] = "print('ours')"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert "\n+print('ours')\n" in diff()[0]

    @pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\xff", b"\x00" * 10, b"a" * 2_000_001])
    def test_what_is_no_text_is_named(self, repo: Path, diff: Diff, content: bytes) -> None:
        (repo / "figure.png").write_bytes(content)
        assert diff() == ("", "figure.png: new, not text\n")
        assert json.loads(diff("--json")[0])[0]["added"] is None

    def test_shown_to_people_control_characters_do_nothing(self, repo: Path, diff: Diff) -> None:
        (repo / "ours.py").write_text("x = '\x1b[2J'\n", encoding="utf-8")
        assert "\x1b[2J" in diff()[0]  # into a file or a pipe as it is
        for arguments in ((), ("--stat",)):
            assert "\x1b" not in diff("--plain", *arguments)[0]


class TestAnotherVersion:
    def remade(self, repo: Path, **fields: object) -> None:
        record = json.loads((repo / ".mihack.json").read_text(encoding="utf-8"))
        (repo / ".mihack.json").write_text(json.dumps({**record, **fields}), encoding="utf-8")

    def test_a_changed_file_that_would_be_made_otherwise_is_named(self, repo: Path, diff: Diff) -> None:
        record = json.loads((repo / ".mihack.json").read_text(encoding="utf-8"))
        files = {**record["files"], "lab/train.py": "0" * 64, "lab/knobs.py": "0" * 64}
        self.remade(repo, mihack="0.0.9", files=files)
        (repo / "lab" / "train.py").write_text("x = 1\n", encoding="utf-8")
        out, err = diff("lab/train.py")
        assert "\n+x = 1\n" in out
        assert "0.0.9" in err
        assert "lab/train.py" in err

    def test_files_that_nobody_changed_are_no_news(self, repo: Path, diff: Diff) -> None:
        old = b"# as the last version made it\n"
        (repo / "lab" / "train.py").write_bytes(old)
        record = json.loads((repo / ".mihack.json").read_text(encoding="utf-8"))
        files = {**record["files"], "lab/train.py": hashlib.sha256(old).hexdigest()}
        self.remade(repo, mihack="0.0.9", files=files)
        assert diff() == ("", "Nothing has changed since it was made.\n")

    def test_a_problem_from_another_catalogue_asks_for_it(
        self, repo: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.remade(repo, problem="X-99")
        assert cli.run(["diff"]) == 1
        assert "--catalog" in capsys.readouterr().err

    @pytest.mark.parametrize("answers", [None, {}, [], {"set": []}, {"name": 3, "set": {"steps": 400}}])
    def test_odd_answers_are_no_traceback(
        self, answers: object, repo: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.remade(repo, answers=answers)
        assert cli.run(["diff", "--stat"]) in {0, 1}
        assert "mihack itself" not in capsys.readouterr().err


def lines_between(before: str, after: str) -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "a.txt").write_bytes(after.encode())
        repo = GeneratedRepo(root, "1", "", "", "", "")
        made = changes.Template({"a.txt": before.encode()}, [])
        return changes.unified(repo, made, changes.Change("a.txt", "changed")) or []
