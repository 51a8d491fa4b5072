"""The site's pages: whole, self-contained, and harmless whatever a card says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_catalog import CARD, changed, write

from mihack.catalog.index import Index, load, load_shipped
from mihack.errors import MihackError
from mihack.site import markdown
from mihack.site.pages import Pages, figure_name, pages, read_figures
from mihack.site.write import MARKER
from mihack.site.write import write as write_site

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Outline(HTMLParser):
    """Ids, addresses and tags of a page; and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.referred: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [tag] if tag not in VOID else []
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src"}:
                self.links.append(value or "")
            if name in {"aria-describedby", "aria-labelledby", "for"}:
                self.referred += (value or "").split()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def shipped() -> Index:
    return load_shipped()


@pytest.fixture(scope="module")
def site(shipped: Index) -> Pages:
    return pages(shipped)


@pytest.fixture(scope="module")
def outlines(site: Pages) -> dict[str, Outline]:
    return {path: Outline(text.decode()) for path, text in site.items() if path.endswith(".html")}


class TestEveryPage:
    def test_there_is_one_for_each_problem_and_area(self, site: Pages, shipped: Index) -> None:
        assert {f"problems/{key}.html" for key in shipped.problems} <= set(site)
        assert {f"areas/{slug}.html" for slug in shipped.areas} <= set(site)
        assert {"index.html", "glossary.html", "resources.html", "starters.html"} <= set(site)

    def test_every_link_inside_leads_somewhere(self, outlines: dict[str, Outline], site: Pages) -> None:
        broken = []
        for path, outline in outlines.items():
            for link in outline.links:
                if re.match(r"https?://|mailto:", link):
                    continue
                file, _, fragment = link.partition("#")
                target = normpath(join(dirname(path), file)) if file else path
                known = fragment == "" or "=" in fragment or fragment in outlines[target].ids
                if target not in site or not known:
                    broken.append((path, link))
        assert broken == []

    def test_ids_are_unique_and_what_is_referred_to_is_there(self, outlines: dict[str, Outline]) -> None:
        for path, outline in outlines.items():
            assert len(outline.ids) == len(set(outline.ids)), path
            assert set(outline.referred) <= set(outline.ids), path

    def test_every_page_forbids_scripts_that_are_not_the_sites_own(self, outlines: dict[str, Outline],
                                                                   site: Pages) -> None:  # fmt: skip
        for path, outline in outlines.items():
            head = site[path].split(b"<link", 1)[0].decode()
            assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'" in head
            assert "unsafe" not in head
            assert {"iframe", "object", "embed", "style", "base"} & set(outline.tags) == set()
            assert outline.tags.count("h1") == 1

    def test_nothing_is_loaded_from_elsewhere(self, site: Pages) -> None:
        for path, text in site.items():
            if path.endswith((".css", ".svg")):
                text = text.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
                assert b"url(" not in text
                assert b"//" not in text
            if path.endswith(".html"):
                assert not re.search(rb'(src|<link[^>]+href)="(https?:)?//', text)

    def test_the_same_catalogue_gives_the_same_bytes(self, site: Pages) -> None:
        assert pages(load_shipped()) == site

    def test_the_first_page_is_small(self, site: Pages) -> None:
        first = [
            "index.html",
            *(f"assets/{name}" for name in ("site.css", "page.js", "list.js", "catalog.js")),
        ]
        assert sum(len(site[path]) for path in first) < 200_000

    def test_the_search_library_carries_its_licence(self, site: Pages) -> None:
        assert b"Permission is hereby granted" in site["assets/minisearch.LICENSE.txt"]


class TestAProblem:
    def test_what_a_team_needs_is_there(self, site: Pages) -> None:
        text = site["problems/3.16.html"].decode()
        assert 'data-copy="mihack new 3.16"' in text
        for told in (
            "largely answered",
            "reviewed 2026-",
            "the author&#39;s rating, as posted",
            "5 to 16 h",
            "https://arxiv.org/abs/2209.11895",
            "First steps",
            "In Colab",
            "../problems/3.21.html",
        ):
            assert told in text

    def test_each_offers_its_command_and_says_whether_it_is_a_warm_up(
        self, site: Pages, shipped: Index
    ) -> None:
        for key, item in shipped.problems.items():
            text = site[f"problems/{key}.html"].decode()
            assert f"mihack new {key}" in text
            assert ("No experiment opens this very question yet" in text) == (
                item["starter"]["fit"] == "near"
            )

    def test_terms_are_linked_where_they_are_first_mentioned_only(self, site: Pages) -> None:
        text = site["problems/3.16.html"].decode()
        assert text.count('class="term" href="../glossary.html#term-induction-head"') == 1


PIECES = [
    "<b>",
    "</p>",
    "<script>",
    "<a href=x>",
    "<!--",
    "&lt;",
    "[x](",
    "javascript:x",
    "https://a.b",
    ")",
    "]: ",
]
PIECES += list("<>&\"'`[]()!*_#\n\\/=:-~ ")


class TestMarkdown:
    def test_terms_are_not_marked_inside_links_code_and_headings(self) -> None:
        concepts = {"head": {"term": "attention head", "aliases": []}}
        terms = markdown.Terms(concepts, "")
        text = "### Attention head\n\n[attention head](https://example.org) `attention head` Attention heads"
        shown = markdown.block(text, terms)
        assert shown.count('class="term"') == 1
        assert (
            '<a class="term" href="glossary.html#term-head" aria-describedby="d-head">Attention heads</a>'
            in shown
        )

    @pytest.mark.parametrize(
        "address",
        [
            "javascript:x",
            "data:text/html,x",
            "vbscript:x",
            "//example.org",
            "/etc",
            "x.html",
            "http:x",
            "file:///x",
        ],
    )
    def test_only_full_addresses_become_links(self, address: str) -> None:
        assert "<a" not in markdown.block(f"[text]({address})")
        assert "<a" not in markdown.inline(f"[text]({address})")

    @pytest.mark.parametrize(
        "address", ["https://example.org/a?b=c&d", "http://example.org", "mailto:a@b.org"]
    )
    def test_links_tell_nobody_where_one_came_from(self, address: str) -> None:
        assert 'rel="noreferrer"' in markdown.inline(f"[text]({address})")

    def test_a_picture_is_its_words(self) -> None:
        assert markdown.inline("![a cat](https://example.org/cat.png)") == "a cat"

    @given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join))
    def test_whatever_the_text_the_tags_are_ours_and_closed(self, text: str) -> None:
        outline = Outline(str(markdown.block(text)))
        ours = {"a", "blockquote", "br", "code", "em", "h3", "hr", "li", "ol", "p", "pre", "strong", "ul"}
        assert set(outline.tags) <= ours
        assert all(re.match(r"(https?://|mailto:)", link) for link in outline.links)


class TestAnOrganisersCatalogue:
    def test_its_event_its_problems_and_its_ratings(self, tmp_path: Path) -> None:
        overlay = (
            "event:\n  name: Weekend <b>\n  starts: 2026-12-04\n  ends: 2026-12-06\n"
            'only: ["3.1"]\nchange:\n  - problem: "3.1"\n    difficulty: C\n    reason: Ours is harder.\n'
        )
        card = changed(
            CARD,
            ("area: demo", "area: algorithmic-problems"),
            ("name: toys", "name: algorithmic"),
            ("{task: sort, variable_length: true}", "{task: sort}"),
            ("concepts: [attention]", "concepts: [attention-head]"),
            ("resources: [a-demo]", "resources: []"),
            ("someone-2020-sorting", "olsson-2022-induction"),
        )
        write(tmp_path, {"overlay.yaml": overlay, "problems/algorithmic-problems/X-1-sort-two.md": card})
        made = pages(load([tmp_path]))
        assert {path for path in made if path.startswith("problems/")} == {
            "problems/3.1.html",
            "problems/X-1.html",
        }
        assert {path for path in made if path.startswith("areas/")} == {"areas/algorithmic-problems.html"}
        assert b"Weekend &lt;b&gt;" in made["index.html"]
        assert b"Ours is harder." in made["problems/3.1.html"]
        assert b"mihack new X-1" in made["problems/X-1.html"]


class TestFigures:
    def test_a_picture_of_a_known_experiment_is_shown(self, shipped: Index, tmp_path: Path) -> None:
        png = b"\x89PNG\r\n\x1a\n"
        write(tmp_path, {figure_name("algorithmic", "sort"): png, figure_name("algorithmic", "nothing"): png})
        figures = read_figures(shipped, tmp_path)
        assert figures == {("algorithmic", "sort"): png}
        made = pages(shipped, figures)
        assert made["figures/algorithmic-sort.png"] == png
        assert b'src="figures/algorithmic-sort.png"' in made["starters.html"]

    def test_no_folder_no_pictures(self, shipped: Index, tmp_path: Path) -> None:
        assert read_figures(shipped, tmp_path / "gone") == {}


SMALL: Pages = {"index.html": b"one", "a/b.html": b"two"}


class TestWriting:
    def test_the_folder_holds_the_pages_and_a_list_of_them(self, tmp_path: Path) -> None:
        write_site(SMALL, tmp_path / "site")
        found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
        assert found == {"site/index.html", "site/a/b.html", f"site/{MARKER}"}
        assert set(json.loads((tmp_path / "site" / MARKER).read_text())["files"]) == set(SMALL)

    def test_an_earlier_site_is_replaced_as_a_whole(self, tmp_path: Path) -> None:
        write_site(SMALL, tmp_path / "site")
        write_site({"index.html": b"new"}, tmp_path / "site")
        assert sorted(p.name for p in (tmp_path / "site").iterdir()) == [MARKER, "index.html"]
        assert (tmp_path / "site" / "index.html").read_bytes() == b"new"
        assert [p.name for p in tmp_path.iterdir()] == ["site"]

    @pytest.mark.parametrize("name", ["thesis.txt", "a/mine.html", ".git/config"])
    def test_a_folder_with_something_of_ones_own_is_left_alone(self, tmp_path: Path, name: str) -> None:
        write_site(SMALL, tmp_path / "site")
        write(tmp_path / "site", {name: b"mine"})
        with pytest.raises(MihackError, match="not from mihack"):
            write_site({"index.html": b"new"}, tmp_path / "site")
        assert (tmp_path / "site" / name).read_bytes() == b"mine"
        assert (tmp_path / "site" / "index.html").read_bytes() == b"one"

    def test_a_page_changed_by_hand_is_left_alone(self, tmp_path: Path) -> None:
        write_site(SMALL, tmp_path / "site")
        (tmp_path / "site" / "index.html").write_text("mine")
        with pytest.raises(MihackError, match=r"changed by hand: index\.html"):
            write_site(SMALL, tmp_path / "site")
        assert (tmp_path / "site" / "index.html").read_text() == "mine"

    def test_a_folder_that_is_not_ours_a_file_and_a_link_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, {"full/thesis.txt": b"mine", "file": b"mine"})
        (tmp_path / "link").symlink_to(tmp_path / "gone")
        for name in ("full", "file", "link", "gone/site"):
            with pytest.raises(MihackError):
                write_site(SMALL, tmp_path / name)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full", "link"]

    def test_a_failure_leaves_the_earlier_site(self, tmp_path: Path) -> None:
        write_site(SMALL, tmp_path / "site")
        with pytest.raises(OSError, match="too long"):
            write_site({"x" * 300: b""}, tmp_path / "site")
        assert (tmp_path / "site" / "index.html").read_bytes() == b"one"
        assert [p.name for p in tmp_path.iterdir()] == ["site"]

    def test_the_folder_in_which_one_stands_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MihackError, match="in which you are"):
            write_site(SMALL, Path())


class TestTheCommands:
    def test_build_prints_where_it_is(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "mihack", "site", "build", str(tmp_path / "public")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(tmp_path / "public" / "index.html")
        assert (tmp_path / "public" / "problems" / "3.1.html").is_file()

    def test_build_refuses_before_it_works(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        command = [sys.executable, "-m", "mihack", "site", "build", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "thesis.txt" in done.stderr

    def test_serve_shows_it_to_this_computer_and_cleans_up(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "mihack", "site", "serve", "--no-browser"]
        environment = {"TMPDIR": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parent.parent)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
            assert running.stdout is not None
            address = running.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address + "problems/3.1.html", timeout=20) as answer:
                assert b"mihack new 3.1" in answer.read()
            running.terminate()
        assert list(tmp_path.iterdir()) == []
