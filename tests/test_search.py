"""Search, suggestions and counts: what a team finds when it does not know an id yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mihack.catalog.index import Index, load
from mihack.catalog.search import search
from mihack.catalog.suggest import Team, suggest
from mihack.cli import group

INDEX = load()


TWO = {key: INDEX.whole(INDEX.problems[key]) for key in ("3.1", "3.2")}
SMALL = Index({"problems": TWO, "areas": {}, "concepts": {}})


def first(words: str, count: int = 5) -> list[str]:
    return [hit.key for hit in search(INDEX, words, kept=False)[0]][:count]


class TestSearch:
    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            ("sorting", "3.1"),
            ("balanced brackets", "3.17"),
            ("superposition with correlated features", "4.2"),
            ("previous token head rotary", "3.21"),
            ("modular addition GELU", "3.23"),
            ("indirect object identification three layers", "3.22"),
            ("neuron reproduced by a regular expression", "1.8"),
        ],
    )
    def test_the_card_that_a_team_means_is_among_the_first_five(self, words: str, wanted: str) -> None:
        assert wanted in first(words)

    def test_another_name_of_a_term_finds_the_cards_that_build_on_it(self) -> None:
        assert "3.18" in first("IOI toy", 10)

    def test_endings_and_case_do_not_matter(self) -> None:
        assert first("SORT list") == first("sorted lists")

    def test_cards_with_all_words_come_before_cards_with_some(self) -> None:
        found = search(INDEX, "grokking brackets", kept=False)[0]
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)

    def test_terms_of_the_glossary_are_found_too(self) -> None:
        assert search(INDEX, "induction head", kept=False)[1][0].key == "induction-head"

    @given(st.text(max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_no_text_is_an_operator_or_an_error(self, words: str) -> None:
        search(SMALL, words, kept=False)

    def test_the_tables_are_kept_by_content_and_an_unwritable_home_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        fresh = search(INDEX, "sorting")
        assert len(list(tmp_path.rglob("search-*.db"))) == 1
        assert search(INDEX, "sorting") == fresh
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert search(INDEX, "sorting") == fresh


class TestSuggest:
    def test_nothing_needs_a_bigger_machine_or_more_hours_than_the_team_has(self) -> None:
        team = Team(hours=4, people=1, compute="laptop")
        for one in suggest(INDEX, team):
            item = INDEX.problems[one.id]
            assert item["compute"] == "laptop"
            assert item["hours"][0] <= 4

    def test_an_interest_moves_its_problems_up(self) -> None:
        without = [one.id for one in suggest(INDEX, Team())]
        liked = [one.id for one in suggest(INDEX, Team(interests=("lottery tickets",)))]
        assert liked.index("3.28") < without.index("3.28")

    def test_every_suggestion_says_why(self) -> None:
        assert all(one.reasons for one in suggest(INDEX, Team()))

    def test_more_people_have_more_hours_but_not_in_proportion(self) -> None:
        assert Team(hours=10, people=3).work == 20


class TestCommands:
    def test_search_prints_a_table_ids_or_json(self) -> None:
        run = CliRunner()
        assert "3.1" in run.invoke(group, ["search", "sorting"]).stdout
        assert "3.1\n" in run.invoke(group, ["search", "sorting", "--ids"]).stdout
        found = json.loads(run.invoke(group, ["search", "sorting", "--json"]).stdout)
        assert {"problems", "concepts"} == set(found)

    def test_suggest_asks_nothing_when_there_is_no_terminal(self) -> None:
        done = CliRunner().invoke(group, ["suggest", "--count", "3"])
        assert done.exit_code == 0
        assert done.stdout.count("difficulty") == 3

    def test_stats_add_up(self) -> None:
        numbers = json.loads(CliRunner().invoke(group, ["stats", "--json"]).stdout)
        assert numbers["problems"] == sum(area["problems"] for area in numbers["areas"].values())
        assert numbers["problems"] == sum(numbers["status"].values())
        lines = CliRunner().invoke(group, ["stats"]).stdout.splitlines()
        assert max(map(len, lines)) <= 80

    def test_resources_of_a_problem_are_those_that_its_card_names(self) -> None:
        done = CliRunner().invoke(group, ["resources", "--for", "3.16", "--json"])
        assert list(json.loads(done.stdout)) == INDEX.problem("3.16")["resources"]

    @pytest.mark.parametrize("sort", ["number", "difficulty", "hours", "title"])
    def test_list_can_be_sorted(self, sort: str) -> None:
        done = CliRunner().invoke(group, ["list", "--sort", sort, "--json"])
        items = json.loads(done.stdout)
        key = {"difficulty": lambda i: i["difficulty"][0], "hours": lambda i: i["hours"][0]}.get(sort)
        if key:
            assert [key(i) for i in items] == sorted(key(i) for i in items)
        assert len(items) == len(INDEX.problems)
