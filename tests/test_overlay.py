"""overlay.yaml: what an organiser's folder hides, rates otherwise and is for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_catalog import CARD, FILES, changed, write

from mihack.catalog import layers
from mihack.catalog.check import check_folder
from mihack.catalog.index import Index, load, load_shipped
from mihack.catalog.search import search
from mihack.cli import group
from mihack.errors import MihackError

EVENT = """\
event:
  name: Our weekend
  starts: 2026-12-04
  ends: 2026-12-06
  url: https://example.org/weekend
  note: Hand in by four.
"""
CHANGE = """\
change:
  - problem: "3.1"
    difficulty: C
    hours: [1, 2]
    reason: We bring a model.
"""
OWN = changed(CARD, ("  name: toys\n", "  name: algorithmic\n"),
              ("{task: sort, variable_length: true}", "{task: modular}"))  # fmt: skip


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIHACK_CATALOG", raising=False)


def folder(place: Path, overlay: str, **files: str) -> Path:
    return write(place, {"overlay.yaml": overlay, **files})


def overlaid(place: Path, overlay: str) -> Index:
    return load([folder(place, overlay)])


def mihack(*arguments: str) -> Any:
    return CliRunner().invoke(group, [*arguments])


class TestHiding:
    def test_a_hidden_problem_is_gone_from_every_command(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path / "ours", 'hide: ["3.1"]\n'))
        assert "3.1" not in mihack("list", "--ids", "--catalog", ours).stdout.split()
        found, _ = search(load([ours]), "sort lists of one fixed length")
        assert "3.1" not in [hit.key for hit in found]
        suggested = json.loads(
            mihack("suggest", "--count", "50", "--hours", "500", "--json", "--catalog", ours).stdout
        )
        assert "3.1" not in [one["id"] for one in suggested]
        shown = load([ours]).problem("3.2")
        assert "3.1" in shown["related"]
        assert "- 3.1 " not in mihack("show", "3.2", "--catalog", ours).stdout

    def test_to_ask_for_it_says_who_hides_it(self, tmp_path: Path) -> None:
        with pytest.raises(MihackError, match="hidden by Our weekend"):
            overlaid(tmp_path / "a", EVENT + 'hide: ["3.1"]\n').problem("3.1")
        with pytest.raises(MihackError, match=r"hidden by .*nameless"):
            overlaid(tmp_path / "nameless", 'hide: ["3.1"]\n').problem("3.1")

    def test_whole_areas(self, tmp_path: Path) -> None:
        left = overlaid(tmp_path, "hide_areas: [superposition, image-models]\n").problems
        gone = {
            k for k, v in load_shipped().problems.items() if v["area"] in {"superposition", "image-models"}
        }
        assert gone
        assert set(left) == set(load_shipped().problems) - gone

    def test_only_some_stay_with_the_folders_own(self, tmp_path: Path) -> None:
        ours = write(tmp_path, {**FILES, "problems/demo/X-1-sort-two.md": OWN})
        folder(ours, 'only: ["3.1", "1.10"]\n')
        assert list(load([ours]).problems) == ["1.10", "3.1", "X-1"]

    def test_a_later_folder_brings_a_problem_back(self, tmp_path: Path) -> None:
        card = next(Path("catalog/problems/algorithmic-problems").glob("3.1-*.md"))
        later = write(tmp_path / "b", {f"problems/algorithmic-problems/{card.name}": card.read_text("utf-8")})
        index = load([folder(tmp_path / "a", 'hide: ["3.1", "3.2"]\n'), later])
        assert "3.1" in index.problems
        assert set(index.hidden) == {"3.2"}

    def test_stats_and_list_count_them(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path, 'hide: ["3.1", "3.2"]\n'))
        assert json.loads(mihack("stats", "--json", "--catalog", ours).stdout)["hidden"] == 2
        assert "2 more are hidden" in mihack("list", "--catalog", ours).stderr


class TestRatings:
    def test_filters_and_tables_use_the_ratings_here(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path, EVENT + CHANGE))
        assert (
            "3.1"
            in mihack("list", "--hours", "2", "--difficulty", "C", "--ids", "--catalog", ours).stdout.split()
        )

    def test_the_card_keeps_its_own_rating_beside_them(self, tmp_path: Path) -> None:
        was = load_shipped().problems["3.1"]
        shown = " ".join(
            mihack("show", "3.1", "--catalog", str(folder(tmp_path, EVENT + CHANGE))).stdout.split()
        )
        assert f"**Difficulty:** C (here; {was['difficulty']} " in shown
        low, high = was["hours"]
        assert (
            f"by Our weekend: We bring a model. (was {was['difficulty']}, {low:g} to {high:g} hours)" in shown
        )

    def test_two_folders_change_one_after_the_other(self, tmp_path: Path) -> None:
        first = folder(tmp_path / "a", CHANGE)
        second = folder(
            tmp_path / "b", 'change: [{problem: "3.1", coding: high, difficulty: D, reason: Hard.}]\n'
        )
        item = load([first, second]).problem("3.1")
        assert (item["difficulty"], item["hours"], item["coding"]) == ("D", [1, 2], "high")
        was = load_shipped().problems["3.1"]
        assert item["changed"]["was"] == {key: was[key] for key in ("difficulty", "hours", "coding")}


class TestEvent:
    def test_its_name_and_days_stand_above_the_tables(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path, EVENT))
        line = "Our weekend, 2026-12-04 to 2026-12-06"
        for command in (["list"], ["stats"], ["suggest", "--hours", "16"]):
            assert mihack(*command, "--catalog", ours).stdout.startswith(line), command

    def test_a_new_repo_says_what_it_was_made_for(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path / "ours", EVENT + CHANGE))
        done = mihack("new", "3.1", str(tmp_path / "repo"), "--catalog", ours)
        assert done.exit_code == 0, done.output
        assert (
            json.loads((tmp_path / "repo" / ".mihack.json").read_text("utf-8"))["event"]["name"]
            == "Our weekend"
        )
        text = " ".join((tmp_path / "repo" / "README.md").read_text("utf-8").split())
        assert "made for Our weekend, 2026-12-04 to 2026-12-06" in text
        assert "Difficulty C (changed by Our weekend: We bring a model.)" in text

    def test_its_text_cannot_drive_a_terminal(self, tmp_path: Path) -> None:
        ours = str(folder(tmp_path, EVENT.replace("Our weekend", '"\u202eOurs {{ 1 }}"')))
        shown = mihack("list", "--catalog", ours).stdout
        assert "\u202e" not in shown
        assert "Ours {{ 1 }}" in shown


class TestFaults:
    @pytest.mark.parametrize(
        ("overlay", "fault"),
        [
            ('hide:\n  - "3.999"\n', "overlay.yaml:2: hide[0]: '3.999' is not the id of a problem"),
            ("hide: [3.1]\n", "overlay.yaml:1: hide[0]: "),
            ("hide_areas: [superposi]\n", "did you mean superposition?"),
            ('only: ["3.1", "3.1"]\n', "names '3.1' twice"),
            ('change:\n  - {problem: "3.1", reason: Why.}\n', "changes nothing; give difficulty"),
            ('change:\n  - {problem: "3.1", difficulty: E, reason: W.}\n', "'E' is not a difficulty"),
            ('change:\n  - {problem: "3.1", difficulty: B}\n', ":2: change[0].reason: is missing"),
            (CHANGE + '  - {problem: "3.1", coding: low, reason: W.}\n', "names '3.1' twice"),
            (EVENT.replace("2026-12-06", "2026-12-03"), "before the event starts on 2026-12-04"),
            (EVENT.replace("https:", "javascript:"), "overlay.yaml:5: event.url: "),
            ("hidden: []\n", "overlay.yaml:1: hidden: "),
        ],
    )  # fmt: skip
    def test_each_is_named_with_its_line(self, tmp_path: Path, overlay: str, fault: str) -> None:
        ours = folder(tmp_path / "ours", overlay)
        named = [str(found) for found in check_folder(ours).faults]
        assert any(fault in text for text in named), named
        with pytest.raises(MihackError) as caught:  # the same answer where it is used
            load([ours])
        assert all(text in caught.value.message for text in named)

    def test_a_folder_may_name_what_lies_below_it(self, tmp_path: Path) -> None:
        below = write(tmp_path / "a", {**FILES, "problems/demo/X-1-sort-two.md": OWN})
        above = folder(tmp_path / "b", 'hide: ["X-1"]\n')
        assert check_folder(above).faults
        assert mihack("check", str(above), "--catalog", str(below)).exit_code == 0
        assert "X-1" not in load([below, above]).problems
        with pytest.raises(MihackError):
            load([above, below])

    def test_check_and_use_agree_on_what_lies_below(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        below = write(tmp_path / "a", {**FILES, "problems/demo/X-1-sort-two.md": OWN})
        above = folder(tmp_path / "b", 'hide: ["X-1"]\n')
        monkeypatch.setenv("MIHACK_CATALOG", os.pathsep.join([str(below), str(above)]))
        assert mihack("check", str(above)).exit_code == 0
        assert "X-1" not in load().problems
        monkeypatch.setenv("MIHACK_CATALOG", os.pathsep.join([str(above), str(below)]))
        assert mihack("check", str(above)).exit_code == 1


class TestBigFolders:
    """From ``MANY`` files on, the hash of a folder is kept with its files' sizes and times."""

    @pytest.fixture
    def big(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(layers, "MANY", 2)
        return folder(tmp_path / "big", EVENT, **{f"concepts/term-{n}.md": concept(n) for n in range(5)})

    def test_files_that_have_not_changed_are_not_read_again(
        self, big: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.age(big, monkeypatch)
        first = layers.fingerprint(big, load_shipped())
        monkeypatch.setattr(layers, "_content_key", lambda *_: pytest.fail("the files were read"))
        assert layers.fingerprint(big, load_shipped()) == first

    def test_what_was_written_a_moment_ago_is_read_again(self, big: Path) -> None:
        first = layers.fingerprint(big, load_shipped())
        write(big, {"concepts/term-1.md": concept(7)})  # as long as before, maybe in the same tick
        assert layers.fingerprint(big, load_shipped()) != first

    def test_a_change_is_seen_whatever_the_record_says(
        self, big: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.age(big, monkeypatch)
        first = layers.fingerprint(big, load_shipped())
        write(big, {"concepts/term-1.md": concept(7)})
        os.utime(big / "concepts" / "term-1.md", ns=(0, 0))
        assert layers.fingerprint(big, load_shipped()) != first

    def test_progress_is_shown_and_counts_to_the_end(self, big: Path) -> None:
        done = mihack("check", str(big))
        assert "6 of 6 files" in done.stderr

    def age(self, big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The clock says an hour later, so that the files are old."""
        now = time.time_ns()
        monkeypatch.setattr(layers.time, "time_ns", lambda: now + 3600 * 10**9)


def concept(number: int) -> str:
    return f"---\nterm: Term {number}\nsummary: What it is.\n---\n"
