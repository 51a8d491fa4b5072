"""Editor support: this repository's own, and what `mihack card editor` writes for a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from small_catalog import CARD, FILES, changed, write

from mihack.catalog import editor
from mihack.catalog.check import check_layer
from mihack.catalog.fields import Basis, Coding, Compute, Status
from mihack.catalog.index import load_shipped
from mihack.cli import group

ROOT = Path(__file__).parent.parent
BASE = load_shipped().entries()
AREAS = list(BASE["areas"])


def committed(name: str) -> Any:
    return json.loads((ROOT / ".vscode" / name).read_text("utf-8"))


class TestThisRepository:
    def test_every_schema_goes_with_files_that_exist(self) -> None:
        for schema, pattern in committed("settings.json")["yaml.schemas"].items():
            assert (ROOT / schema).is_file()
            # an overlay belongs to an organiser's folder: here is none
            assert list(ROOT.glob(pattern.lstrip("/"))) or pattern == "/catalog/overlay.yaml"

    def test_it_has_what_the_command_writes_today(self) -> None:
        wanted = editor.settings("catalog/")
        settings = committed("settings.json")
        assert wanted["yaml.schemas"].items() <= settings.pop("yaml.schemas").items()
        assert settings == {key: value for key, value in wanted.items() if key != "yaml.schemas"}
        assert committed("tasks.json") == editor.tasks("catalog/")
        message = "delete .vscode/mihack.code-snippets and run `mihack card editor catalog --workspace .`"
        assert committed("mihack.code-snippets") == editor.snippets(AREAS), message


class TestTheBuildTask:
    def test_its_pattern_reads_a_fault(self, tmp_path: Path) -> None:
        pattern = editor.tasks("")["tasks"][0]["problemMatcher"]["pattern"]
        card = changed(CARD, ("compute: laptop", "compute: laptp"))
        write(tmp_path, {**FILES, "problems/demo/X-1-sort-two.md": card})
        base: dict[str, Any] = {"starters": {}}
        (fault,) = (f for f in check_layer(tmp_path, base).faults if f.field == "compute")
        match = re.fullmatch(pattern["regexp"], str(fault))
        assert match is not None
        assert match[pattern["file"]] == fault.file
        assert int(match[pattern["line"]]) == fault.line == 17
        assert match[pattern["message"]].startswith("compute: is 'laptp'; it must be one of laptop")
        assert fault.message in (ROOT / "docs" / "authoring.md").read_text("utf-8")


class TestSnippets:
    @pytest.mark.parametrize(
        ("field", "choices"),
        [("compute", Compute), ("coding", Coding), ("status", Status), ("difficulty_basis", Basis)],
    )
    def test_a_field_offers_what_the_schema_allows(self, field: str, choices: Any) -> None:
        (line,) = editor.snippets(AREAS)[f"problem: {field}"]["body"]
        assert line == f"{field}: ${{1|{','.join(get_args(choices))}|}}"

    def test_areas_are_those_that_there_are(self) -> None:
        (line,) = editor.snippets(["one", "two"])["problem: area"]["body"]
        assert line == "area: ${1|one,two|}"

    def test_a_whole_card_filled_in_is_a_valid_card(self, tmp_path: Path) -> None:
        typed = {
            "id": "X-1", "title": "A title", "area": "superposition", "subarea": "Ours", "difficulty": "B",
            "difficulty_basis": "posted", "status": "unknown", "reviewed": "2026-01-31", "works": "",
            "remains": "All.", "hours": "1, 2", "compute": "gpu", "coding": "low", "concepts": "",
            "models": "", "starter": "null", "sources": "{label: Here, url: 'https://example.org'}",
        }  # fmt: skip
        lines = []
        for line in editor.snippets(AREAS)["mihack problem"]["body"]:
            name = line.partition(":")[0]
            if (choices := re.search(r"\|(.*)\|", line)) is not None:
                assert typed[name] in choices[1].split(",")
            lines.append(re.sub(r"\$\{[^}]*\}", lambda _, name=name: typed[name], line))
        text = "\n".join(lines).replace("TODO", "Text.") + "\n"
        write(tmp_path, {"problems/superposition/X-1-a.md": text})
        assert [str(fault) for fault in check_layer(tmp_path, BASE).faults] == []


class TestTheCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(group, ["card", "editor", *arguments])

    def test_it_writes_schemas_and_settings(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "ours", FILES)
        assert self.run(str(folder)).exit_code == 0
        settings = json.loads((folder / ".vscode" / "settings.json").read_text("utf-8"))
        for schema, pattern in settings["yaml.schemas"].items():
            assert json.loads((folder / schema).read_text("utf-8"))["$schema"]
            assert pattern.startswith("/")
        # what it wrote is no fault of the catalogue
        assert [f for f in check_layer(folder, {"starters": {}}).faults if "/schema/" in f.file] == []

    def test_paths_start_at_the_workspace(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "events" / "ours", FILES)
        self.run(str(folder), "--workspace", str(tmp_path))
        settings = json.loads((tmp_path / ".vscode" / "settings.json").read_text("utf-8"))
        assert settings["yaml.schemas"]["./events/ours/schema/work.schema.json"] == "/events/ours/works.yaml"
        tasks = json.loads((tmp_path / ".vscode" / "tasks.json").read_text("utf-8"))
        assert tasks["tasks"][0]["args"] == ["check", "events/ours"]

    def test_settings_that_are_there_stay(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "ours", {**FILES, ".vscode/settings.json": '{"mine": 1}'})
        done = self.run(str(folder))
        assert (folder / ".vscode" / "settings.json").read_text("utf-8") == '{"mine": 1}'
        assert "stays as it is" in done.stderr
        assert (folder / ".vscode" / "tasks.json").is_file()

    def test_a_second_run_changes_nothing(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "ours", FILES)
        self.run(str(folder))
        again = self.run(str(folder))
        assert (again.exit_code, again.output) == (0, "")
