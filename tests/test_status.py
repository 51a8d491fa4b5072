"""`mihack status`: each item of the checklist follows what lies in the repo, and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mihack import cli
from mihack.catalog.index import load
from mihack.errors import MihackError
from mihack.scaffold.checklist import ENOUGH_WORDS, SECTIONS, images, own_words
from mihack.scaffold.deadline import Deadline, deadline, length
from mihack.scaffold.plan import Answers, plan
from mihack.scaffold.runs import read_runs

INDEX = load()
FILES = plan(INDEX.problem("3.16"), Answers(settings={"steps": "400"}), INDEX)
WORDS = "word " * ENOUGH_WORDS
LATER = 10.0  # seconds between what is made and what comes after it

Status = Callable[..., dict[str, Any]]


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repo as `mihack new` makes it; its files are an hour old."""
    root = tmp_path / "our-repo"
    for path, content in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        os.utime(root / path, (1e9, 1e9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIHACK_CATALOG", raising=False)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str]) -> Status:
    def ask(*arguments: str) -> dict[str, Any]:
        assert cli.run(["status", "--json", *arguments]) == 0
        data = json.loads(capsys.readouterr().out)
        data["items"] = {item["name"]: item for item in data["items"]}
        return dict(data)

    return ask


@pytest.fixture
def state(repo: Path, status: Status) -> Callable[[str], str]:
    return lambda name: str(status()["items"][name]["state"])


def run(root: Path, seed: int = 0, *, at: float = 2e9, missed: str = "", **knobs: Any) -> Path:
    """A finished run as `lab/results.py` leaves it; ``missed`` is a word of the labels that it misses."""
    expected = json.loads((root / "expected.json").read_text(encoding="utf-8"))
    folder = root / "results" / f"20261128-1000{len(list(root.glob('results/*'))):02}-seed{seed}"
    folder.mkdir(parents=True)
    config = {"knobs": {**expected["knobs"], "SEED": seed, **knobs}, "device": "cpu"}
    rows = [{**row, "met": not (missed and missed in row["label"])} for row in expected["rows"]]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    metrics = folder / "metrics.json"
    metrics.write_text(json.dumps({"met": not missed, "rows": rows}), encoding="utf-8")
    os.utime(metrics, (at, at))
    return folder


def write(root: Path, **sections: str) -> None:
    """The report with text under some headings, above the prompts."""
    path = root / "REPORT.md"
    text = path.read_text(encoding="utf-8")
    for heading, words in sections.items():
        text = text.replace(f"## {heading}\n", f"## {heading}\n\n{words}\n")
    path.write_text(text, encoding="utf-8")


class TestANewRepo:
    def test_nothing_is_done_and_every_item_says_what_to_do(self, repo: Path, status: Status) -> None:
        items = status()["items"]
        assert list(items) == [
            "Understood", "Baseline reproduced", "Own question", "Controls", "Figure", "Write-up",
        ]  # fmt: skip
        assert {item["state"] for item in items.values()} == {"open"}
        assert all(item["next"] and item["evidence"] for item in items.values())

    def test_it_says_what_was_asked_of_and_that_nothing_changed(self, repo: Path, status: Status) -> None:
        data = status()
        assert (data["problem"], data["runs"], data["changes"]) == ("3.16", 0, {})
        assert data["repo"] == str(repo.resolve())

    def test_it_is_found_from_a_folder_below(
        self, repo: Path, status: Status, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repo / "lab")
        assert status()["problem"] == "3.16"
        monkeypatch.chdir(repo.parent)
        assert status("--repo", "our-repo")["problem"] == "3.16"

    def test_elsewhere_it_says_where_to_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli.run(["status"]) == 1
        assert "mihack new" in capsys.readouterr().err


class TestUnderstood:
    def test_the_introduction_in_words_of_your_own(self, repo: Path, state: Callable[[str], str]) -> None:
        write(repo, Introduction="We ask whether")
        assert state("Understood") == "begun"
        write(repo, Introduction=WORDS)
        assert state("Understood") == "done"

    def test_the_prompts_are_no_words_of_yours(self) -> None:
        template = FILES["REPORT.md"].decode()
        assert {own_words(template)[name] for name in SECTIONS} == {0}

    @given(st.dictionaries(st.sampled_from(SECTIONS), st.integers(0, 50), min_size=1))
    def test_words_are_counted_by_section_whatever_the_comments(self, counts: dict[str, int]) -> None:
        report = "# Title\n\nauthors\n" + "".join(
            f"## {name}\n<!-- a prompt\n## Not a heading\n-->\n{'word ' * number}<!-- end -->\n"
            for name, number in counts.items()
        )
        assert own_words(report) == counts


class TestBaseline:
    def test_every_row_met_with_the_knobs_as_generated(self, repo: Path, state: Callable[[str], str]) -> None:
        run(repo)
        assert state("Baseline reproduced") == "done"

    def test_another_seed_will_do_other_knobs_will_not(self, repo: Path, state: Callable[[str], str]) -> None:
        run(repo, LAYERS=3)
        assert state("Baseline reproduced") == "open"
        run(repo, seed=7)
        assert state("Baseline reproduced") == "done"

    def test_knobs_set_when_it_was_made_are_the_original_ones(self, repo: Path) -> None:
        assert json.loads(FILES[".mihack.json"])["parameters"]["STEPS"] == 400
        assert json.loads((repo / "expected.json").read_text(encoding="utf-8"))["knobs"]["STEPS"] == 400

    def test_a_missed_row_is_a_beginning(self, repo: Path, status: Status) -> None:
        run(repo, missed="one-layer")
        item = status()["items"]["Baseline reproduced"]
        assert item["state"] == "begun"
        assert re.search(r": \d+ of 10 rows", item["evidence"])

    def test_the_best_run_counts(self, repo: Path, state: Callable[[str], str]) -> None:
        run(repo)
        run(repo, seed=1, missed="one-layer")
        assert state("Baseline reproduced") == "done"

    def test_edited_expectations_are_said(self, repo: Path, status: Status) -> None:
        path = repo / "expected.json"
        path.write_text(path.read_text(encoding="utf-8").replace("0.8", "0.1"), encoding="utf-8")
        run(repo)
        assert "expected.json was edited" in status()["items"]["Baseline reproduced"]["evidence"]

    @pytest.mark.parametrize("name", ["metrics.json", "config.json"])
    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"knobs": 3, "rows": 4}', "[" * 100_000])
    def test_a_run_that_cannot_be_read_is_named_not_counted(self, repo: Path, name: str, text: str) -> None:
        folder = run(repo)
        (folder / name).write_text(text, encoding="utf-8")
        runs, broken = read_runs(repo)
        if name == "metrics.json" and text == "{}":
            assert [found.met() for found in runs] == [(0, 0)]  # readable, and nothing in it
        else:
            assert (runs, broken) == ([], [folder.name])

    def test_a_run_without_rows_reproduces_nothing(self, repo: Path, state: Callable[[str], str]) -> None:
        (run(repo) / "metrics.json").write_text('{"rows": []}', encoding="utf-8")
        assert state("Baseline reproduced") == "begun"

    def test_a_run_that_was_stopped_is_no_run(self, repo: Path, status: Status) -> None:
        (run(repo) / "metrics.json").unlink()
        assert status()["runs"] == 0


class TestOwnQuestion:
    def test_a_run_with_another_knob(self, repo: Path, state: Callable[[str], str]) -> None:
        run(repo)
        assert state("Own question") == "open"
        run(repo, LAYERS=3)
        assert state("Own question") == "done"

    def test_changed_code_counts_once_it_has_run(self, repo: Path, state: Callable[[str], str]) -> None:
        run(repo, at=1e9 + LATER)
        self.edit(repo / "experiment.py", "\nprint('ours')\n", at=1e9 + 2 * LATER)
        assert state("Own question") == "begun"
        run(repo, at=1e9 + 3 * LATER)
        assert state("Own question") == "done"

    def test_a_script_of_your_own_counts(self, repo: Path, state: Callable[[str], str]) -> None:
        self.edit(repo / "ours.py", "print('ours')\n", at=1e9)
        assert state("Own question") == "begun"

    @pytest.mark.parametrize("name", ["tests/test_ours.py", "check_gpu.py", "results/x.py", ".venv/y.py"])
    def test_what_is_no_experiment_does_not(self, name: str, repo: Path, state: Callable[[str], str]) -> None:
        self.edit(repo / name, "\nx = 1\n", at=1e9)
        assert state("Own question") == "open"

    def test_laying_a_script_out_anew_is_no_change(self, repo: Path, state: Callable[[str], str]) -> None:
        self.edit(repo / "experiment.py", "\n\n# the end\n", at=1e9)
        assert state("Own question") == "open"

    def test_a_script_that_does_not_parse_is_a_change(self, repo: Path, state: Callable[[str], str]) -> None:
        self.edit(repo / "experiment.py", "\ndef (\n", at=1e9)
        assert state("Own question") == "begun"

    def test_running_the_notebook_is_no_change_and_editing_a_cell_is(
        self, repo: Path, state: Callable[[str], str]
    ) -> None:
        path = repo / "notebook.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        cell["outputs"], cell["execution_count"] = [{"output_type": "stream", "text": "hi"}], 1
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert state("Own question") == "open"
        cell["source"] = "print('ours')"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert state("Own question") == "begun"

    def edit(self, path: Path, text: str, *, at: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        os.utime(path, (at, at))


class TestControls:
    def test_three_seeds_of_one_setting_of_your_own(self, repo: Path, status: Status) -> None:
        for seed in (0, 1):
            run(repo, seed, LAYERS=3)
        item = status()["items"]["Controls"]
        assert item["state"] == "begun"
        assert "--seed 2" in item["next"]
        run(repo, 2, LAYERS=3)
        assert status()["items"]["Controls"]["state"] == "done"

    def test_seeds_of_different_settings_do_not_add_up(self, repo: Path, state: Callable[[str], str]) -> None:
        for seed in range(4):
            run(repo, seed, LAYERS=3 + seed)
        assert state("Controls") == "begun"

    def test_seeds_of_the_baseline_are_a_beginning(self, repo: Path, status: Status) -> None:
        for seed in range(3):
            run(repo, seed)
        item = status()["items"]["Controls"]
        assert item["state"] == "begun"
        assert "own question" in item["next"]

    def test_a_missed_control_row_must_be_looked_at(self, repo: Path, status: Status) -> None:
        for seed in range(3):
            run(repo, seed, LAYERS=3, missed="random other heads ablated (control)" if seed == 1 else "")
        item = status()["items"]["Controls"]
        assert item["state"] == "begun"
        assert "seed1" in item["evidence"]

    def test_a_missed_row_that_is_no_control_does_not_matter_here(
        self, repo: Path, state: Callable[[str], str]
    ) -> None:
        for seed in range(3):
            run(repo, seed, LAYERS=3, missed="one-layer model")
        assert state("Controls") == "done"

    def test_every_experiment_has_control_rows(self) -> None:
        for starter in INDEX.starters.values():
            for name, about in starter["experiments"].items():
                assert any("control" in row["label"].lower() for row in about["expected"]), name


class TestFigure:
    def test_one_that_exists_and_that_the_report_shows(self, repo: Path, state: Callable[[str], str]) -> None:
        figures = run(repo) / "figures"
        figures.mkdir()
        (figures / "mechanism.png").write_bytes(b"png")
        assert state("Figure") == "begun"
        write(repo, Results="![Our circuit](figures/our%20circuit.png)")
        assert state("Figure") == "begun"  # it is not there yet
        (repo / "figures").mkdir()
        (repo / "figures" / "our circuit.png").write_bytes(b"png")
        assert state("Figure") == "done"

    def test_one_in_results_is_not_kept_by_git(self, repo: Path, status: Status) -> None:
        figures = run(repo) / "figures"
        figures.mkdir()
        (figures / "a.png").write_bytes(b"png")
        write(repo, Results=f'<img alt="a" src="results/{figures.parent.name}/figures/a.png">')
        item = status()["items"]["Figure"]
        assert item["state"] == "done"
        assert "git does not keep" in item["evidence"]

    @pytest.mark.parametrize(
        ("report", "found"),
        [
            ("![a](b.png)", ["b.png"]),
            ('![a](<b c.png> "title") ![](d.svg)', ["b", "d.svg"]),
            ("<!-- ![a](b.png) -->", []),
            ("![a](https://example.org/b.png) ![a](data:image/png;base64,AAAA)", []),
            ("[a](b.png)", []),
            ("<!-- open ![a](b.png)", []),
        ],
    )
    def test_what_is_a_figure_of_the_report(self, report: str, found: list[str]) -> None:
        assert images(report) == found


class TestWriteUp:
    def test_all_five_sections(self, repo: Path, status: Status) -> None:
        for number, name in enumerate(SECTIONS, 1):
            write(repo, **{name: WORDS})
            item = status()["items"]["Write-up"]
            assert item["evidence"] == f"{number} of 5 sections written"
            assert item["state"] == ("done" if number == 5 else "begun")
            assert (name in item["next"]) is False

    def test_a_figure_alone_is_no_text(self, repo: Path, state: Callable[[str], str]) -> None:
        write(repo, Results="![a figure with a long description, twenty words and more](a.png)")
        assert state("Write-up") == "open"

    def test_a_report_that_was_deleted(self, repo: Path, status: Status) -> None:
        (repo / "REPORT.md").unlink()
        assert "REPORT.md" in status()["items"]["Write-up"]["evidence"]


EVENT = {"name": "The Weekend", "starts": "2026-11-28", "ends": "2026-11-29"}


class TestTimeLeft:
    @pytest.mark.parametrize(
        ("now", "words"),
        [
            ("2026-11-26T00:00", "begins in 2 days and ends 2026-11-29 23:59, The Weekend"),
            ("2026-11-28T20:59", "1 day 3 hours left, until 2026-11-29 23:59, The Weekend"),
            ("2026-11-29T22:49", "1 hour 10 minutes left, until 2026-11-29 23:59, The Weekend"),
            ("2026-11-29T23:59", "over since 2026-11-29 23:59, The Weekend"),
        ],
    )
    def test_until_the_end_of_the_last_day(self, now: str, words: str) -> None:
        end = deadline(EVENT)
        assert end is not None
        assert end.words(datetime.fromisoformat(now).astimezone()) == words

    def test_an_event_may_name_the_hour_and_the_team_another(self) -> None:
        event = {**EVENT, "until": "2026-11-29T17:00"}
        for until, hour in (("", 17), ("2026-11-29T16:30", 16)):
            end = deadline(event, until)
            assert end is not None
            assert end.ends.hour == hour

    def test_without_either_there_is_no_time(self, repo: Path, status: Status) -> None:
        assert deadline(None) is None
        assert status()["time"] is None

    def test_with_an_offset_it_is_the_same_moment_everywhere(self) -> None:
        one, other = deadline(None, "2026-11-29T17:00Z"), deadline(None, "2026-11-29T19:00+02:00")
        assert one == other

    @pytest.mark.parametrize("text", ["soon", "2026-13-01", "17:00", "9" * 40])
    def test_what_is_no_time_is_refused_with_an_example(self, text: str) -> None:
        with pytest.raises(MihackError, match="no time") as caught:
            deadline(None, text)
        assert "--until 2026" in caught.value.hint

    def test_the_event_is_the_one_noted_when_the_repo_was_made(self, repo: Path, status: Status) -> None:
        self.note(repo, {**EVENT, "ends": "2999-11-29"})
        time = status()["time"]
        assert time["event"] == "The Weekend"
        assert time["seconds_left"] > 0
        assert status("--until", "2020-01-01")["time"]["seconds_left"] == 0

    def test_else_that_of_the_organisers_catalogue(self, repo: Path, status: Status, tmp_path: Path) -> None:
        overlay = tmp_path / "theirs" / "overlay.yaml"
        overlay.parent.mkdir()
        overlay.write_text(
            "event:\n  name: Theirs\n  starts: 2999-01-01\n  ends: 2999-01-02\n", encoding="utf-8"
        )
        assert status("--catalog", str(overlay.parent))["time"]["event"] == "Theirs"

    def test_an_overlay_may_say_when_hand_in_closes(self, repo: Path, status: Status, tmp_path: Path) -> None:
        overlay = tmp_path / "theirs" / "overlay.yaml"
        overlay.parent.mkdir()
        event = "event:\n  name: Theirs\n  starts: 2999-01-01\n  ends: 2999-01-02\n"
        overlay.write_text(f"{event}  until: 2999-01-02T16:00+01:00\n", encoding="utf-8")
        ends = datetime.fromisoformat(status("--catalog", str(overlay.parent))["time"]["ends"])
        assert ends == datetime.fromisoformat("2999-01-02T15:00+00:00")
        overlay.write_text(f"{event}  until: Sunday at four\n", encoding="utf-8")
        assert cli.run(["status", "--catalog", str(overlay.parent)]) == 1

    @given(st.timedeltas(timedelta(0), timedelta(days=400)))
    def test_never_more_than_is_left(self, span: timedelta) -> None:
        unit = {"day": 1440, "hour": 60, "minute": 1}
        parts = re.findall(r"(\d+) (day|hour|minute)", length(span))
        said = timedelta(minutes=sum(int(number) * unit[name] for number, name in parts))
        assert said <= span < said + (timedelta(hours=1) if span.days else timedelta(minutes=1))

    def note(self, root: Path, event: dict[str, str]) -> None:
        record = json.loads((root / ".mihack.json").read_text(encoding="utf-8"))
        (root / ".mihack.json").write_text(json.dumps({**record, "event": event}), encoding="utf-8")


class TestTheScreen:
    @pytest.fixture
    def screen(self, repo: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
        def show(*arguments: str) -> str:
            assert cli.run(["status", *arguments]) == 0
            return capsys.readouterr().out

        return show

    def test_a_mark_for_each_item_and_the_next_step_under_those_not_done(
        self, repo: Path, screen: Callable[..., str]
    ) -> None:
        run(repo)
        text = screen("--until", "2999-01-01")
        assert "[x] Baseline reproduced: " in text
        assert "[ ] Understood: " in text
        assert "[~] Controls: " in text
        assert text.count("    -> ") == 5
        assert "left, until 2999-01-01 23:59" in text
        assert "`mihack diff --stat`" in text

    def test_60_columns_and_ascii(
        self, repo: Path, screen: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        run(repo, LAYERS=3)
        for text in (screen("--until", "2999-01-01"), screen("--plain")):
            assert max(map(len, text.splitlines())) <= 60
            assert text.isascii()

    def test_colours_on_a_terminal_for_what_is_done_and_begun(
        self, repo: Path, screen: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mihack.commands.status.coloured", lambda: True)
        monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream, color: False)
        run(repo)
        text = screen()
        assert "\x1b[32m[x]\x1b[0m " in text
        assert "\x1b[33m[~]\x1b[0m " in text
        assert "\n[ ] " in text

    def test_names_in_the_repo_are_shown_never_obeyed(self, repo: Path, screen: Callable[..., str]) -> None:
        write(repo, Results="![x](figures/\x1b[2J.png)")
        (run(repo) / "metrics.json").write_text("{", encoding="utf-8")
        record = json.loads((repo / ".mihack.json").read_text(encoding="utf-8"))
        record["title"] = "\x1b[2J\x07title"
        (repo / ".mihack.json").write_text(json.dumps(record), encoding="utf-8")
        text = screen()
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "cannot be read" in text

    def test_a_repo_whose_problem_is_in_a_catalogue_elsewhere_has_a_status_too(
        self, repo: Path, screen: Callable[..., str]
    ) -> None:
        record = json.loads((repo / ".mihack.json").read_text(encoding="utf-8"))
        (repo / ".mihack.json").write_text(json.dumps({**record, "problem": "X-99"}), encoding="utf-8")
        assert "[ ] Own question" in screen()


def test_a_deadline_without_an_event_is_a_time_alone() -> None:
    now = datetime(2026, 11, 29, 12).astimezone()
    assert Deadline(now + timedelta(seconds=59)).words(now).startswith("less than a minute left, until 2026")
