"""`mihack new` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import index, problem, tiny  # noqa: F401

from mihack import cli
from mihack.catalog import index as index_module

Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call mihack in an empty folder with a catalogue of two: (exit code, stdout, stderr)."""
    cards = index(problem(), problem(id="9.2", post_id="9.7", title="\x1b[31mRed\nletters"))
    monkeypatch.setattr(index_module, "load", lambda folders=(), cache=False: cards)
    monkeypatch.setenv("HOME", "/proc/no/such/home")  # nothing may be read or written there
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        code = cli.run(["new", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_it_makes_a_repo_and_says_what_is_what_and_what_to_run(run: Run, tmp_path: Path) -> None:
    code, out, err = run("9.1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "9.1-count-to-ten: 9.1 Count to ten"
    map_lines = [line for line in lines if line.startswith("  ") and "   " in line.strip()]
    assert 6 <= len(map_lines) <= 11
    assert lines[-2] == "  cd 9.1-count-to-ten"
    assert "uv run experiment.py" in lines[-1]
    assert (tmp_path / "9.1-count-to-ten" / "experiment.py").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["9.1-count-to-ten"]


def test_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("9.1", "somewhere", "--dry-run")
    assert code == 0
    assert "nothing was written" in out
    assert "experiment.py" in out
    assert "the experiment: knobs at the top" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [True, False])
def test_json_is_the_plan_or_the_result(run: Run, tmp_path: Path, dry: bool) -> None:
    code, out, _ = run("9.1", "here", "--json", *(["--dry-run"] if dry else []))
    report = json.loads(out)
    assert code == 0
    assert (report["problem"], report["target"], report["written"]) == ("9.1", "here", not dry)
    assert report["run"] == ["python", "experiment.py"]
    sizes = {item["path"]: item["bytes"] for item in report["files"]}
    assert "README.md" in sizes
    if not dry:
        assert (tmp_path / "here" / "README.md").stat().st_size == sizes["README.md"]


def test_answers_arrive(run: Run, tmp_path: Path) -> None:
    flags = ["--name", "My Sum!", "--author", "Ada", "--github", "ada/sum", "--set", "n=20"]
    assert run("9.1", "repo", *flags)[0] == 0
    repo = tmp_path / "repo"
    assert 'name = "my-sum"' in (repo / "pyproject.toml").read_text()
    assert "Copyright (c) Ada" in (repo / "LICENSE").read_text()
    assert "/github/ada/sum/blob/main/" in (repo / "notebook.ipynb").read_text()
    assert "N = 20  #" in (repo / "experiment.py").read_text()
    record = json.loads((repo / ".mihack.json").read_text())
    assert record["answers"] == {
        "name": "My Sum!", "author": "Ada", "github": "ada/sum", "set": {"n": "20"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "which problem?"),
        (["9.9"], 1, "9.1"),
        (["9.1", "--set", "n"], 1, "has no ="),
        (["9.1", "--set", "m=3"], 1, "no parameter 'm'"),
        (["9.1", "--set", "n=ten"], 1, "not a whole number"),
        (["9.1", "--set", "n=0"], 1, "The least is 1"),
        (["9.1", "--github", "https://github.com/ada/sum"], 1, "OWNER/REPO"),
        (["9.1", "no/such/parent"], 1, "there is no folder"),
        (["9.1", "CON"], 1, "device name"),
        (["9.1", "what?"], 1, "refuse"),
        (["9.1", "full"], 1, "not empty"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    run: Run, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "thesis.tex"]


def test_the_current_folder_will_do_if_it_is_empty(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("9.1", ".")
    assert code == 0
    assert "  cd " not in out
    assert (tmp_path / "README.md").is_file()


def test_a_number_of_the_post_is_understood_and_said(run: Run) -> None:
    code, _, err = run("9.7", "repo")
    assert code == 0
    assert "9.2" in err


def test_a_title_cannot_colour_the_terminal(run: Run) -> None:
    _, out, _ = run("9.2", "repo")
    assert "\x1b" not in out
    assert out.splitlines()[0] == "repo: 9.2 [31mRed letters"


def test_what_a_killed_run_left_is_removed_and_said(run: Run, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    left = tmp_path / f".mihack-{gone.pid}-0123456789ab"
    left.mkdir()
    code, _, err = run("9.1", "repo")
    assert code == 0
    assert f"Removed {left.name}" in err
    assert not left.exists()


def test_git_is_set_up_when_asked_for_and_not_inside_another(run: Run, tmp_path: Path) -> None:
    assert run("9.1", "plain")[0] == 0
    assert not (tmp_path / "plain" / ".git").exists()
    assert run("9.1", "repo", "--git")[0] == 0
    assert (tmp_path / "repo" / ".git").is_dir()
    subprocess.run(["git", "init", "-q", "outer"], check=True, env={**os.environ, "HOME": "/"})
    code, _, err = run("9.1", "outer/inner", "--git")
    assert code == 0
    assert "no git init" in err
    assert not (tmp_path / "outer" / "inner" / ".git").exists()


def ask(tmp_path: Path, typed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mihack with a terminal to read from, and type on it."""
    import pty

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import baking; from pathlib import Path; from mihack.catalog import index\n"
        "from mihack.scaffold import experiment, plan; from mihack.cli import main\n"
        "index.load = lambda *a, **k: baking.index(baking.problem())\n"
        "Path('count.py').write_text(baking.SCRIPT)\n"
        "experiment.experiment_path = lambda *a: Path('count.py')\n"
        "plan.check_gpu = lambda: b'\\n'\n"
        "main(['new', *sys.argv[2:]])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, cwd=tmp_path, env=env, stdin=theirs, capture_output=True, text=True)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_bare_on_a_terminal_it_asks_two_questions_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    done = ask(tmp_path, "9.9\n9.1\nfull\nrepo\n")
    assert done.returncode == 0, done.stderr
    assert "Which problem?" in done.stderr
    assert "There is no problem '9.9'" in done.stderr
    assert "Where? [9.1-count-to-ten]" in done.stderr
    assert "not empty" in done.stderr
    assert done.stdout.startswith("repo: 9.1 Count to ten")
    assert (tmp_path / "repo" / "README.md").is_file()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_with_an_id_it_asks_nothing(tmp_path: Path) -> None:
    done = ask(tmp_path, "", "9.1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    done = ask(tmp_path, "", "--yes")
    assert done.returncode == 2
    assert "which problem?" in done.stderr
