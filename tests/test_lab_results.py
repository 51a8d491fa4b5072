"""Run folders: what is written, what it survives, and two of them side by side."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from baking import bake, tiny  # noqa: E402, F401
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mihack.lab import results  # noqa: E402
from mihack.lab.comparison import NotComparable, compare_runs, main, table  # noqa: E402
from mihack.lab.results import Run, bound, compare, meets, new_folder, start_run, write_json  # noqa: E402

numbers = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
_count = itertools.count()


def made(parent: Path, metrics: dict[str, Any], experiment: str = "modular", **knobs: Any) -> Path:
    """A run's folder, written by the code that experiments use."""
    folder = new_folder(parent, next(_count))
    device = torch.device("cpu")
    write_json(folder / "config.json", {"knobs": {"SEED": 0, "LR": 0.01, **knobs}, "device": "cpu"})
    write_json(folder / "environment.json", results.environment(device))
    Run(device, folder, {}, {"experiment": experiment}, False).finish(metrics)
    return folder


class TestTheRunFolder:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
        monkeypatch.chdir(tmp_path)
        rows = [{"metric": "accuracy", "label": "Accuracy", "at_least": 0.9}]
        expected = {"problem": "3.1", "experiment": "modular", "knobs": {"LR": 0.1, "SEED": 0}, "rows": rows}
        Path("expected.json").write_text(json.dumps(expected))
        monkeypatch.setattr(sys, "argv", ["experiment.py", "--lr", "0.5", "--seed", "3"])
        return start_run({"SEED": 0, "LR": 0.1, "__file__": str(tmp_path / "experiment.py")})

    def test_it_has_config_environment_metrics_and_figures(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        figure = results.Figure()
        figure.subplots().plot([1, 2])
        run.save(figure, "line")
        report = run.finish({"accuracy": 0.95})
        written = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.*")}
        assert written == {"config.json", "environment.json", "metrics.json", "figures/line.png"}
        assert run.folder.parent == Path("results")
        assert run.folder.name.endswith("-seed3")
        assert json.loads((run.folder / "config.json").read_text())["knobs"] == {"SEED": 3, "LR": 0.5}
        assert json.loads((run.folder / "metrics.json").read_text()) == report
        assert (report["experiment"], report["met"]) == ("modular", True)
        assert "Knobs changed: LR=0.5." in capsys.readouterr().out

    def test_what_was_not_measured_or_is_nan_is_missed_and_written_as_null(self, run: Run) -> None:
        for metrics in ({}, {"accuracy": math.nan}):
            run.finish(metrics)
            report = json.loads((run.folder / "metrics.json").read_text(), parse_constant=pytest.fail)
            assert report["rows"][0]["found"] is None
            assert not report["met"]

    def test_check_ends_a_run_that_missed_with_one(self, run: Run) -> None:
        run.check = True
        run.finish({"accuracy": 0.9})
        with pytest.raises(SystemExit) as ended:
            run.finish({"accuracy": 0.8})
        assert ended.value.code == 1

    def test_runs_of_the_same_second_have_folders_of_their_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "strftime", lambda form: "20260301-101500")
        folders = [new_folder(tmp_path, 0) for _ in range(4)]
        stem = "20260301-101500-seed0"
        assert [folder.name for folder in folders] == [stem, *(f"{stem}-{n}" for n in (1, 2, 3))]
        assert all(folder.is_dir() for folder in folders)


class TestCtrlC:
    CODE = """
import sys
from mihack.lab.results import start_run
SEED = 0
sys.argv = ["experiment.py", "--device", "cpu"]
start_run(globals())
raise {error}
"""

    def ended(self, error: str, folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", self.CODE.format(error=error)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)

    def test_it_is_told_in_a_line_with_the_folder_of_the_run(self, tmp_path: Path) -> None:
        done = self.ended("KeyboardInterrupt", tmp_path)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert "Stopped. What there is of this run is in results" in done.stderr

    def test_any_other_error_is_shown_in_full(self, tmp_path: Path) -> None:
        assert "Traceback" in self.ended("ValueError('mine')", tmp_path).stderr


class TestWriting:
    @given(documents)
    @settings(max_examples=150, deadline=None)
    def test_what_is_written_is_read_back_with_null_for_what_is_not_finite(
        self, tmp_path_factory: pytest.TempPathFactory, document: Any
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "document.json"

        def finite(data: Any) -> Any:
            if isinstance(data, float):
                return data if math.isfinite(data) else None
            if isinstance(data, dict):
                return {key: finite(value) for key, value in data.items()}
            return [finite(value) for value in data] if isinstance(data, list) else data

        write_json(path, document)
        assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == finite(document)

    def test_a_write_that_fails_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "metrics.json"
        write_json(path, {"a": 1})
        before = path.read_bytes()

        def dies(*paths: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"a": 2})
        assert path.read_bytes() == before
        with pytest.raises(TypeError):
            write_json(path, {"a": object()})
        assert path.read_bytes() == before


class TestBounds:
    @given(numbers, numbers, numbers)
    def test_a_row_is_met_within_its_bounds_and_never_by_nan(self, value: float, a: float, b: float) -> None:
        assert meets(value, {"at_least": a}) == (value >= a)
        assert meets(value, {"at_most": b}) == (value <= b)
        assert meets(value, {"between": [a, b]}) == (a <= value <= b)
        assert not meets(math.nan, {"at_least": a})

    @given(st.dictionaries(st.sampled_from("abc"), numbers), st.lists(st.sampled_from("abc")))
    def test_every_expected_row_is_there_once_in_order(self, metrics: Any, wanted: list[str]) -> None:
        rows = [{"metric": name, "label": name, "at_least": 0.0} for name in wanted]
        found = compare(metrics, rows)
        assert [row["metric"] for row in found] == wanted
        assert all(row["met"] == (metrics.get(row["metric"], math.nan) >= 0) for row in found)
        assert all(len(line) <= 80 for line in results.table(found).splitlines())

    @given(numbers, numbers, numbers, texts)
    def test_long_numbers_are_shown_in_full_within_80_columns(
        self, value: float, low: float, high: float, label: str
    ) -> None:
        rows = compare({"a": value}, [{"metric": "a", "label": label, "between": [low, high]}])
        lines = results.table(rows).split("\n")
        assert all(len(line) <= 80 for line in lines)
        assert bound(rows[0]) in "\n".join(lines)

    def test_bounds_in_words(self) -> None:
        rows = [{"at_least": 0.9}, {"at_most": 1e-3}, {"between": [0, 0.25]}]
        assert [bound(row) for row in rows] == ["at least 0.9", "at most 0.001", "0 to 0.25"]


class TestTwoRuns:
    def test_knobs_and_environment_that_differ_and_the_metrics(self, tmp_path: Path) -> None:
        a = made(tmp_path, {"accuracy": 0.75, "loss": 1.0}, LR=0.01)
        b = made(tmp_path, {"accuracy": 0.5, "loss": 1.0}, LR=0.1, WIDTH=64)
        place = json.loads((b / "environment.json").read_text())
        place["packages"]["torch"] = "0.0.1"
        write_json(b / "environment.json", place)
        found = compare_runs(a, b)
        assert found.knobs == {"LR": ("0.01", "0.1"), "WIDTH": ("-", "64")}
        assert found.environment == {"packages.torch": (torch.__version__.split("+")[0], "0.0.1")} or (
            list(found.environment) == ["packages.torch"]
        )
        accuracy, loss = found.metrics
        assert (accuracy.a.mean, accuracy.b.mean, accuracy.difference) == (0.75, 0.5, -0.25)
        assert (loss.difference, loss.beyond_spread) == (0, None)
        assert accuracy.a.spread is None

    def test_a_run_and_itself(self, tmp_path: Path) -> None:
        a = made(tmp_path, {"accuracy": 0.75})
        found = compare_runs(a, a)
        assert (found.knobs, found.environment) == ({}, {})
        assert found.metrics[0].difference == 0
        assert "Knobs: no difference" in table(found)

    def test_a_metric_that_is_missing_or_null_has_no_difference(self, tmp_path: Path) -> None:
        a = made(tmp_path, {"accuracy": 0.75, "gap": math.nan})
        b = made(tmp_path, {"gap": 3.0})
        accuracy, gap = compare_runs(a, b).metrics
        assert (accuracy.b.mean, accuracy.b.missing, accuracy.difference) == (None, 1, None)
        assert (gap.a.mean, gap.a.missing, gap.difference) == (None, 1, None)
        assert "gap is missing in 1 of 1 runs of A" in table(compare_runs(a, b))


class TestSeveralSeeds:
    def side(self, parent: Path, values: list[float], **knobs: Any) -> list[Path]:
        return [made(parent, {"accuracy": value}, SEED=seed, **knobs) for seed, value in enumerate(values)]

    def test_mean_spread_and_whether_the_difference_is_beyond_it(self, tmp_path: Path) -> None:
        near = self.side(tmp_path, [0.1, 0.2, 0.3])
        far = self.side(tmp_path, [0.5, 0.6, 0.7], LR=1)
        found = compare_runs(near, far)
        (row,) = found.metrics
        assert row.a.mean == pytest.approx(0.2)
        assert row.a.spread == pytest.approx(0.1)
        assert row.difference == pytest.approx(0.4)
        assert row.beyond_spread is True  # 0.4 > sqrt(0.02)
        assert found.knobs == {"LR": ("0.01", "1")}  # the seeds are the same on both sides
        assert "0.2 ± 0.1" in table(found)
        assert table(found).splitlines()[-3].endswith(" yes")

    def test_a_difference_within_the_spread(self, tmp_path: Path) -> None:
        one, two = self.side(tmp_path, [0.1, 0.2, 0.3]), self.side(tmp_path, [0.2, 0.3, 0.4])
        assert compare_runs(one, two).metrics[0].beyond_spread is False  # 0.1 < sqrt(0.02)

    def test_one_run_has_no_spread_to_be_beyond(self, tmp_path: Path) -> None:
        one, two = self.side(tmp_path, [0.1, 0.2, 0.3]), self.side(tmp_path, [0.9])
        (row,) = compare_runs(one, two).metrics
        assert row.a.spread is not None
        assert row.beyond_spread is None

    def test_a_folder_of_runs_a_glob_and_a_list_mean_the_same(self, tmp_path: Path) -> None:
        runs = self.side(tmp_path / "wide", [0.1, 0.2])
        other = made(tmp_path / "other", {"accuracy": 1.0})
        for given_ in (runs, tmp_path / "wide", str(tmp_path / "wide" / "*seed*"), [runs[0], *runs]):
            assert compare_runs(given_, other).a == [str(run) for run in sorted(runs)]

    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_whatever_was_measured_the_table_fits_80_columns(
        self, tmp_path_factory: pytest.TempPathFactory, data: Any
    ) -> None:
        parent = tmp_path_factory.mktemp("runs")
        values = st.floats(-1e300, 1e300) | st.just(math.nan)
        measured = st.dictionaries(texts, values, max_size=4)
        sides = [
            [
                made(parent, data.draw(measured), NAME=data.draw(texts))
                for _ in range(data.draw(st.integers(1, 3)))
            ]
            for _ in range(2)
        ]
        found = compare_runs(*sides)
        assert all(len(line) <= 80 for line in table(found).split("\n"))
        for row in found.metrics:
            for side, runs in zip((row.a, row.b), sides, strict=True):
                read = [json.loads((run / "metrics.json").read_text())["metrics"] for run in runs]
                finite = [run[row.metric] for run in read if run.get(row.metric) is not None]
                assert side.runs - side.missing == len(finite)
                if finite:
                    assert min(finite) <= side.mean <= max(finite)


class TestTheCommand:
    def test_it_prints_the_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a, b = made(tmp_path, {"accuracy": 0.75}), made(tmp_path, {"accuracy": 0.5}, LR=0.1)
        capsys.readouterr()
        assert main([str(a), str(b)]) == 0
        out = capsys.readouterr().out
        assert "accuracy                               0.75                0.5     -0.25" in out
        assert main(["--a", str(a), "--b", str(b), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["knobs"] == {"LR": ["0.01", "0.1"]}
        assert shown["metrics"][0]["difference"] == -0.25

    @pytest.mark.parametrize(
        "arguments", [[], ["one"], ["one", "two", "three"], ["--a", "one"], ["one", "--b", "two"]]
    )
    def test_wrong_usage_ends_with_two(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "give two runs, or --a RUN ... --b RUN ..." in capsys.readouterr().err

    def test_it_starts_without_torch(self, tmp_path: Path) -> None:
        """It is run between two looks at a plot: half a second, not five."""
        code = "import sys, mihack.lab.comparison; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestInAGeneratedRepo:
    def test_runs_of_its_experiment_are_compared_by_the_command(
        self,
        tmp_path: Path,
        tiny: None,  # noqa: F811
    ) -> None:
        for path, content in bake().items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)

        def python(*arguments: str) -> str:
            command = [sys.executable, *arguments]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            return subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
            ).stdout

        python("experiment.py", "--n", "10")
        python("experiment.py", "--n", "20")
        runs = [f"results/{run.name}" for run in sorted((tmp_path / "results").iterdir())]
        found = json.loads(python("-m", "lab.comparison", *runs, "--json"))
        assert (found["a"], found["b"]) == ([runs[0]], [runs[1]])
        assert found["knobs"] == {"N": ["10", "20"]}
        assert [row["difference"] for row in found["metrics"]] == [210 - 55]


class TestWhatIsWrong:
    @pytest.fixture
    def good(self, tmp_path: Path) -> Path:
        return made(tmp_path, {"accuracy": 0.75})

    def wrong(self, good: Path, other: Path | str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Said on stderr, on one line, without a traceback; exit code 1."""
        with pytest.raises(NotComparable, match=message):
            compare_runs(good, other)
        capsys.readouterr()
        assert main([str(good), str(other)]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_no_such_run(self, good: Path, capsys: Any) -> None:
        self.wrong(good, "results/nothing-*", r"results/nothing-\*: there is no such run", capsys)

    def test_a_folder_without_runs(self, good: Path, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "empty").mkdir()
        self.wrong(good, tmp_path / "empty", "empty: not a run's folder, and no runs in it", capsys)

    def test_a_run_that_did_not_finish(self, good: Path, tmp_path: Path, capsys: Any) -> None:
        run = made(tmp_path, {})
        (run / "metrics.json").unlink()
        self.wrong(good, run, "metrics.json: missing, the run did not finish. Run it again", capsys)

    def test_broken_json_with_its_line(self, good: Path, tmp_path: Path, capsys: Any) -> None:
        run = made(tmp_path, {})
        (run / "config.json").write_text('{\n  "knobs": {\n    "LR": 0.1,,\n  }\n}\n')
        self.wrong(good, run, r"config.json:3: not JSON \(.*\). Run it again, or leave it out", capsys)

    @pytest.mark.parametrize("text", ["[]", "3", "{}", '{"metrics": [1]}', "null"])
    def test_json_of_something_else(self, good: Path, tmp_path: Path, text: str, capsys: Any) -> None:
        run = made(tmp_path, {})
        (run / "metrics.json").write_text(text)
        self.wrong(good, run, "metrics.json:1: no mapping 'metrics' in it", capsys)

    def test_bytes_that_are_no_text(self, good: Path, tmp_path: Path, capsys: Any) -> None:
        run = made(tmp_path, {})
        (run / "metrics.json").write_bytes(b"\xff\xfe\x00")
        self.wrong(good, run, "metrics.json: cannot be read", capsys)

    def test_runs_of_different_experiments(self, good: Path, tmp_path: Path, capsys: Any) -> None:
        other = made(tmp_path, {"accuracy": 1.0}, experiment="ioi")
        self.wrong(good, other, "is of the experiment modular, .* of ioi: compare runs of one", capsys)
