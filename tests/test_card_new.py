"""`mihack card new`: blank cards that explain themselves, and whose check is the list of things to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mihack.catalog import blank, schema
from mihack.catalog.card import parse
from mihack.catalog.check import check_layer
from mihack.catalog.index import load_shipped
from mihack.cli import group, run
from mihack.errors import MihackError

BASE = load_shipped().entries()


def new(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["card", "new", *arguments])


def filled(text: str) -> str:
    """A blank card as a writer leaves it: each TODO replaced, an address where one belongs."""
    text = text.replace("TODO its address", "https://example.org")
    return re.sub(r"TODO[^\n\"]*", "Written.", text)


def faults(folder: Path) -> list[str]:
    return [str(fault) for fault in check_layer(folder, BASE).faults]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIHACK_CATALOG", raising=False)
    return tmp_path


class TestABlankCard:
    @pytest.mark.parametrize(
        ("kind", "model"), [("problem", schema.Problem), ("area", schema.Area), ("concept", schema.Concept)]
    )
    def test_it_explains_every_field(self, kind: str, model: Any) -> None:
        key = "X-1" if kind == "problem" else "a-slug"
        text = blank.text_for(kind, key, "A title", "superposition", "2026-01-31")
        for name, field in model.model_fields.items():
            assert re.search(rf"^(# )?{name}:", text, re.M), name
            assert field.description.split()[0] in text

    @pytest.mark.parametrize("kind", ["problem", "area", "concept", "overlay"])
    def test_the_check_names_every_todo_and_nothing_else(self, here: Path, kind: str) -> None:
        assert new("--kind", kind, "--title", "A title", "--area", "super").exit_code == 0
        (path,) = (p for p in (here / "my-catalogue").rglob("*") if p.is_file())
        lines = path.read_text("utf-8").split("\n")
        named = {int(re.findall(r":(\d+): ", fault)[0]) for fault in faults(here / "my-catalogue")}
        assert named == {number for number, line in enumerate(lines, 1) if "TODO" in line}

    @pytest.mark.parametrize("kind", ["problem", "area", "concept"])
    def test_it_is_valid_once_written(self, here: Path, kind: str) -> None:
        new("--kind", kind, "--title", "A title", "--area", "super")
        (path,) = (here / "my-catalogue").rglob("*.md")
        path.write_text(filled(path.read_text("utf-8")), encoding="utf-8")
        assert faults(here / "my-catalogue") == []

    @given(st.text(max_size=80))
    @settings(max_examples=150, deadline=None)
    def test_any_title_is_only_a_title(self, title: str) -> None:
        text = blank.text_for("problem", "X-1", title, "superposition", "2026-01-31")
        card = parse(text.encode("utf-8", "replace"), "card.md")
        assert card.front is not None
        wanted = title.encode("utf-8", "replace").decode()
        if wanted.isprintable():  # a control character is a fault, and shown as such
            assert card.front.at(("title",)).value == wanted
        assert card.front.at(("area",)).value == "superposition"
        assert [section.heading for section in card.sections][:2] == ["Problem", "Why it matters"]

    @given(st.text(max_size=60))
    @settings(max_examples=150, deadline=None)
    def test_any_title_makes_a_plain_file_name(self, title: str) -> None:
        path = blank.file_for("problem", "X-1", title, "superposition")
        assert path.parent == Path("problems", "superposition")
        assert re.fullmatch(r"X-1-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)


class TestTheCommand:
    def test_it_prints_the_path_and_what_to_do_next(self, here: Path) -> None:
        done = new("--title", "Sort dates", "--area", "algorithmic")
        assert done.stdout == "my-catalogue/problems/algorithmic-problems/X-1-sort-dates.md\n"
        assert "mihack check my-catalogue" in done.stderr

    def test_ids_count_on(self, here: Path) -> None:
        for title in ("One", "Two"):
            new("--title", title, "--area", "super", "--in", "ours")
        assert sorted(p.name for p in here.rglob("*.md")) == ["X-1-one.md", "X-2-two.md"]
        assert blank.next_id(["x-41", "X-7b", "3.1", "XX-99"]) == "X-42"

    def test_a_folders_own_area_will_do(self, here: Path) -> None:
        new("--kind", "area", "--title", "Music models")
        assert new("--title", "Chords", "--area", "music").exit_code == 0

    def test_a_file_that_is_there_stays(self, here: Path) -> None:
        new("Q-1", "--title", "One", "--area", "super")
        (path,) = here.rglob("*.md")
        path.write_text("mine")
        done = run_for_error(["card", "new", "Q-1", "--title", "One", "--area", "super"])
        assert "already there" in done
        assert path.read_text() == "mine"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--title", "T"], "which area?"),
            (["--area", "super"], "which title?"),
            (["--title", "T", "--area", "nowhere"], "No area 'nowhere'"),
            (["--title", "T", "--area", "toy"], "fits toy-language-models and toy-models-since-2023"),
            (["../x-1", "--title", "T", "--area", "super"], "is not an id"),
            (["con", "--title", "T", "--kind", "area"], "device name"),
            (["UP", "--title", "T", "--kind", "concept"], "is not a slug"),
        ],
    )
    def test_what_is_missing_or_wrong_is_named(
        self, here: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["card", "new", *arguments]) in {1, 2}
        shown = " ".join(capsys.readouterr().err.split())
        assert words in shown
        assert "Traceback" not in shown
        assert list(here.rglob("*")) == []

    def test_a_folder_that_cannot_be_written_is_named(self, here: Path) -> None:
        (here / "file").write_text("")
        with pytest.raises(MihackError, match="cannot be written"):
            blank.write_new(here / "file" / "x.md", "text")


def run_for_error(arguments: list[str]) -> str:
    """What a command that fails says."""
    done = CliRunner().invoke(group, arguments)
    assert isinstance(done.exception, MihackError)
    return done.exception.message
