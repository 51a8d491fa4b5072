"""The report of a generated repo: what is kept, what is made, and what never runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from baking import bake, tiny  # noqa: F401
from browser import launched, opened, save
from hypothesis import given, settings
from hypothesis import strategies as st

from mihack.lab import report_text
from mihack.lab.runs import code_hash, latest, older_than, runs_in

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02"
    "0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082"
)


def run(repo: Path, name: str, total: float | None, seed: int = 0, n: int = 10, **config: object) -> Path:
    """A finished run's folder, as an experiment leaves it."""
    folder = repo / "results" / name
    row = {"metric": "total", "label": "Sum", "at_least": 55, "found": total, "met": (total or 0) >= 55}
    files = {
        "config.json": {"knobs": {"SEED": seed, "N": n}, **config},
        "environment.json": {"python": "3.11", "packages": {"torch": "2.13"}},
        "metrics.json": {"experiment": "count", "rows": [row], "metrics": {"total": total, "steps": 3.0}},
    }
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "the_sum.png").write_bytes(PIXEL)
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture
def repo(tmp_path: Path, tiny: None) -> Path:  # noqa: F811
    made = save(bake(), tmp_path / "repo")
    run(made, "20260301-101500-seed0", 55.0)
    return made


def report(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "report.py", *arguments]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, encoding="utf-8", timeout=60)


def page(repo: Path) -> str:
    done = report(repo)
    assert done.returncode == 0, done.stderr
    return (repo / "report.html").read_text("utf-8")


class TestWhatItHolds:
    @pytest.mark.parametrize("place", ["experiment.py", "gone/report.html"])
    def test_it_is_written_nowhere_but_in_an_html_file(self, repo: Path, place: str) -> None:
        before = (repo / "experiment.py").read_bytes()
        done = report(repo, "--output", place)
        assert done.returncode == 1
        assert "give a file that ends in .html" in done.stderr
        assert (repo / "experiment.py").read_bytes() == before

    def test_question_settings_expectation_figure_environment_and_limits(self, repo: Path) -> None:
        html = page(repo)
        for text in (
            "How far can one count?",
            "at least 55",
            "data:image/png",
            "2.13",
            "One seed only",
            "Gauss",
        ):
            assert text in html
        places = [html.index(f"<h2>{name}</h2>") for name in report_text.SECTIONS]
        assert places == sorted(places)

    def test_your_words_are_kept_and_the_file_is_not_touched(self, repo: Path) -> None:
        path = repo / "REPORT.md"
        path.write_text(
            path.read_text("utf-8").replace("## Methods\n", "## Methods\n\nWe **counted**.\n"), "utf-8"
        )
        before = path.read_bytes()
        assert "<p>We <strong>counted</strong>.</p>" in page(repo)
        assert path.read_bytes() == before
        assert page(repo) == page(repo)

    def test_a_section_that_is_gone_is_told_and_its_tables_stay(self, repo: Path) -> None:
        (repo / "REPORT.md").write_text("# Ours\n\n## Abstract\n\nText.\n", "utf-8")
        assert "at least 55" in page(repo)
        assert "REPORT.md:1: no section 'Results'" in report(repo).stderr

    def test_a_missed_row_is_a_limit(self, repo: Path) -> None:
        run(repo, "20260302-101500-seed0", 7.0)
        assert "“Sum” is not as expected on 1 of 1 seeds" in page(repo)

    def test_without_a_run_it_says_what_to_do(self, tmp_path: Path, tiny: None) -> None:  # noqa: F811
        done = report(save(bake(), tmp_path / "empty"))
        assert done.returncode == 1
        assert "python experiment.py" in done.stderr


class TestWhichRuns:
    def test_seeds_of_the_newest_settings_belong_together(self, repo: Path) -> None:
        run(repo, "20260301-101600-seed1", 57.0, seed=1)
        run(repo, "20260228-000000-seed2", 99.0, seed=2, n=9)
        chosen = latest(runs_in(repo / "results")[0])
        assert [one.seed for one in chosen] == [0, 1]
        assert "56 ± 1.4" in page(repo)

    def test_an_unfinished_run_is_left_out_and_named(self, repo: Path) -> None:
        (run(repo, "20260401-101600-seed1", 57.0) / "metrics.json").unlink()
        finished, faults = runs_in(repo / "results")
        assert len(finished) == 1
        assert "did not finish" in faults[0]

    def test_a_run_keeps_the_hash_of_its_script(self, repo: Path) -> None:
        script = repo / "experiment.py"
        run(repo, "20260402-101600-seed0", 57.0, code=code_hash(script))
        newest = latest(runs_in(repo / "results")[0])[0]
        assert not older_than(newest, script)
        script.write_text(script.read_text("utf-8") + "# more\n", "utf-8")
        assert older_than(newest, script)
        assert "has changed since the run" in page(repo)


class TestNothingRuns:
    @pytest.mark.parametrize(
        "text",
        ["<script>x</script>", "a <img src=x onerror=y>", "<svg onload=x>", "<!-- p --> <b onclick=x>"],
    )
    def test_raw_html_is_shown(self, repo: Path, text: str) -> None:
        (repo / "REPORT.md").write_text(f"# T\n\n## Results\n\n{text}\n", "utf-8")
        html = report_text.read_text(repo / "REPORT.md").sections[0].html
        assert "&lt;" in html
        assert not any(tag in html for tag in ("<script", "<img", "<svg", "<b "))

    @pytest.mark.parametrize(
        "address", ["javascript:x", "data:text/html,x", "https://example.org/a.png", "../../a.png"]
    )
    def test_a_picture_from_elsewhere_is_not_shown(self, repo: Path, address: str) -> None:
        (repo.parent / "a.png").write_bytes(PIXEL)
        (repo / "REPORT.md").write_text(f"# T\n\n## Results\n\n![a]({address})\n", "utf-8")
        text = report_text.read_text(repo / "REPORT.md")
        assert "<img" not in text.sections[0].html
        assert all(fault.startswith("REPORT.md:5: no picture") for fault in text.faults)

    @settings(max_examples=150, deadline=None)
    @given(st.text("<>!-/\"'=&;[]()#`*\n scriptmgonadj:", max_size=80))
    def test_no_tag_of_yours_survives(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        path = tmp_path_factory.getbasetemp() / "fuzzed.md"
        path.write_text(f"## Results\n\n{text}", "utf-8")
        html = "".join(part.html for part in report_text.read_text(path).sections)
        assert "<script" not in html
        assert "<img" not in html
        assert 'href="javascript' not in html


class TestInTheBrowser:
    def test_it_fetches_nothing_fits_a_phone_satisfies_axe_and_prints(self, repo: Path) -> None:
        axe = pytest.importorskip("axe_playwright_python").__path__[0]
        run(repo, "20260301-101600-seed1", 57.0, seed=1)
        page(repo)
        address = (repo / "report.html").as_uri()
        with launched() as browser, opened(browser, "file:", bypass_csp=True) as shown:
            shown.on("request", lambda asked: requests.append(asked.url))
            requests: list[str] = []
            shown.goto(address)
            assert [url for url in requests if not url.startswith("data:")] == [address]
            shown.evaluate((Path(axe) / "axe.min.js").read_text(encoding="utf-8"))
            for scheme, width in (("light", 390), ("dark", 1280)):
                shown.emulate_media(color_scheme=scheme)
                shown.set_viewport_size({"width": width, "height": 900})
                assert shown.evaluate("document.documentElement.scrollWidth") <= width
                found = shown.evaluate("axe.run(document, {resultTypes: ['violations']})")
                assert [(v["id"], [n["html"] for n in v["nodes"]][:2]) for v in found["violations"]] == []
            pdf = shown.pdf(prefer_css_page_size=True)
            assert 1 <= pdf.count(b"/Type /Page\n") <= 4
