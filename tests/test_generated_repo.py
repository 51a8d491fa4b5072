"""The generated repo that one stands in, from its .mihack.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from baking import bake, tiny  # noqa: F401
from browser import save

from mihack.errors import MihackError
from mihack.scaffold.generated_repo import RECORD, find, read


@pytest.fixture
def repo(tmp_path: Path, tiny: None) -> Path:  # noqa: F811
    return save(bake(settings={"n": "20"}), tmp_path / "repo")


class TestFinding:
    def test_from_a_folder_inside(self, repo: Path) -> None:
        found = find(repo / "lab")
        assert found.root == repo
        assert (found.problem, found.title, found.experiment) == ("9.1", "Count to ten", "count")
        assert found.parameters["N"] == 20
        assert found.answers["set"] == {"n": "20"}

    def test_nowhere(self, tmp_path: Path) -> None:
        with pytest.raises(MihackError, match="not inside a repo made by mihack") as raised:
            find(tmp_path)
        assert "mihack new" in raised.value.hint

    def test_a_record_of_the_first_versions_has_no_title(self, repo: Path) -> None:
        record = json.loads((repo / RECORD).read_text("utf-8"))
        del record["title"], record["parameters"]
        (repo / RECORD).write_text(json.dumps(record), "utf-8")
        assert read(repo).title == ""
        assert read(repo).parameters == {}


class TestWhatChanged:
    def test_a_fresh_repo_is_the_same_in_every_file(self, repo: Path) -> None:
        found = find(repo)
        assert {found.state(path) for path in found.files} == {"same"}

    def test_an_edit_and_a_deletion(self, repo: Path) -> None:
        (repo / "REPORT.md").write_text("Ours.\n", "utf-8")
        (repo / "PROBLEM.md").unlink()
        found = find(repo)
        assert found.state("REPORT.md") == "changed"
        assert found.state("PROBLEM.md") == "deleted"


class TestBrokenRecords:
    @pytest.mark.parametrize(
        ("text", "told"), [('{\n"files"', ":2: not JSON"), ("[]", ":1: not a record"), ("{}", ":1: not a")]
    )
    def test_are_told_with_file_and_line(self, repo: Path, text: str, told: str) -> None:
        (repo / RECORD).write_text(text, "utf-8")
        with pytest.raises(MihackError, match=told):
            find(repo)

    @pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
    def test_a_path_that_leads_out_is_refused(self, repo: Path, path: str) -> None:
        (repo / RECORD).write_text(json.dumps({"files": {path: "0"}}), "utf-8")
        with pytest.raises(MihackError, match="refused"):
            find(repo)
