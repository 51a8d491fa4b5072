"""`mihack submit`: what it refuses, naming file and line, and an archive that is always the same."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from baking import bake, tiny  # noqa: F401
from browser import save
from click.testing import CliRunner, Result
from test_report import run

from mihack.commands.submit import submit_command
from mihack.errors import MihackError

WRITTEN = "# Counting\n\nAuthors: Ada\n\n" + "".join(
    f"## {name}\n\nWe counted.\n\n"
    for name in ("Abstract", "Introduction", "Methods", "Results", "Discussion", "References", "Appendix")
)


@pytest.fixture
def repo(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    made = save(bake(), tmp_path / "repo")
    run(made, "20990301-101500-seed0", 55.0)
    (made / "REPORT.md").write_text(WRITTEN, "utf-8")
    monkeypatch.chdir(made)
    return made


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(submit_command, ["--skip-notebook", *arguments])


def refused(*arguments: str) -> str:
    done = submit(*arguments)
    assert done.exit_code == 1, done.output
    return done.output


class TestTheArchive:
    def test_it_holds_the_repo_the_run_the_report_and_the_hashes(self, repo: Path) -> None:
        assert submit().exit_code == 0
        with zipfile.ZipFile("submission.zip") as archive:
            names = archive.namelist()
            manifest = json.loads(archive.read("manifest.json"))
            assert names == sorted(names)
            assert {"experiment.py", "report.html", "results/20990301-101500-seed0/metrics.json"} <= set(
                names
            )
            assert manifest["files"] == {
                name: hashlib.sha256(archive.read(name)).hexdigest()
                for name in names
                if name != "manifest.json"
            }
        assert manifest["checks"] == {
            "report": "passed", "runs": "passed", "files": "passed", "notebook": "skipped"
        }  # fmt: skip

    def test_the_same_files_give_the_same_bytes(self, repo: Path) -> None:
        submit()
        first = Path("submission.zip").read_bytes()
        (repo / "__pycache__").mkdir()
        (repo / "__pycache__" / "a.pyc").write_bytes(b"x")
        submit("--output", "again.zip")
        assert Path("again.zip").read_bytes() == first

    @pytest.mark.parametrize(
        ("place", "said"),
        [
            ("REPORT.md", "not named like one"),
            ("gone/hand-in.zip", "there is no folder"),
            ("notes.zip", "is no archive"),
            (".", "not named like one"),
        ],
    )
    def test_it_replaces_nothing_but_an_archive(self, repo: Path, place: str, said: str) -> None:
        (repo / "notes.zip").write_text("ours", "utf-8")
        done = submit("--output", place)
        assert isinstance(done.exception, MihackError)
        assert said in done.exception.message
        assert (repo / "REPORT.md").read_text("utf-8") == WRITTEN
        assert (repo / "notes.zip").read_text("utf-8") == "ours"

    def test_a_write_that_fails_leaves_nothing_half(
        self, repo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mihack.handin.archive.os.replace", full)
        assert submit().exit_code != 0
        assert not list(repo.glob("submission*"))

    def test_check_writes_nothing(self, repo: Path) -> None:
        before = sorted(repo.rglob("*"))
        assert submit("--check").exit_code == 0
        assert [path for path in sorted(repo.rglob("*")) if "__pycache__" not in path.parts] == before

    def test_json(self, repo: Path) -> None:
        told = json.loads(submit("--check", "--json").stdout)
        assert told["archive"] is None
        assert told["checks"]["report"] == "passed"


class TestWhatIsRefused:
    def test_a_section_that_is_still_a_prompt(self, repo: Path) -> None:
        text = WRITTEN.replace("## Methods\n\nWe counted.", "## Methods\n\n<!-- Enough to repeat it -->")
        (repo / "REPORT.md").write_text(text, "utf-8")
        assert "REPORT.md:13: Methods is not written yet" in refused()
        assert not Path("submission.zip").exists()

    def test_nothing_was_run(self, repo: Path) -> None:
        (repo / "results" / "20990301-101500-seed0" / "metrics.json").unlink()
        assert "no finished run" in refused()

    def test_the_code_has_changed_since(self, repo: Path) -> None:
        run(repo, "20990401-101500-seed0", 55.0, code="0" * 64)
        assert "changed since" in refused()

    def test_a_missed_row_must_be_named(self, repo: Path) -> None:
        run(repo, "20990501-101500-seed0", 7.0)
        assert '"Sum" is not at least 55' in refused()
        (repo / "REPORT.md").write_text(WRITTEN.replace("We counted", "The sum fell short"), "utf-8")
        assert submit().exit_code == 0

    def test_a_secret_unless_its_line_says_that_it_is_none(self, repo: Path) -> None:
        secret = "hf" + "_" + "a" * 34
        (repo / "notes.txt").write_text(f"one\n{secret}\n", "utf-8")
        told = refused()
        assert "notes.txt:2: looks like a Hugging Face token" in told
        assert secret not in told
        (repo / "notes.txt").write_text(f"one\n{secret} not-a-secret\n", "utf-8")
        assert submit().exit_code == 0

    def test_pickles_large_files_links_and_no_licence(self, repo: Path) -> None:
        (repo / "model.pt").write_bytes(b"x")
        with (repo / "large.npy").open("wb") as file:
            file.truncate(20_000_001)
        (repo / "link").symlink_to("/etc/hostname")
        (repo / "LICENSE").unlink()
        told = refused()
        for line in (
            "model.pt:1: pickled",
            "large.npy:1: 20 MB",
            "link:1: no plain file",
            "LICENSE:1: missing",
        ):
            assert line in told

    def test_a_notebook_that_fails(self, repo: Path) -> None:
        book = json.loads((repo / "notebook.ipynb").read_text("utf-8"))
        book["cells"] = [cell | {"source": "1 / 0"} for cell in book["cells"] if cell["cell_type"] == "code"][
            :1
        ]
        (repo / "notebook.ipynb").write_text(json.dumps(book), "utf-8")
        done = CliRunner().invoke(submit_command, ["--check"])
        assert done.exit_code == 1
        assert "notebook.ipynb:1: does not run from clean: ZeroDivisionError" in done.output
