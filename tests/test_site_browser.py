"""The site in a real browser: what people do with it, and what a hostile card cannot do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from browser import DESKTOP, PHONE, launched, opened, save, served, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mihack.catalog.index import Index, load_shipped
from mihack.catalog.query import query
from mihack.shipped import gallery_dir
from mihack.site.pages import Site, pages, read_figures

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KINDS = {
    "home": "index.html",
    "a search": "index.html#q=induction+heads&difficulty=B",
    "a problem": "problems/3.16.html",
    "a problem without a starter": "problems/6.48.html",
    "an area": "areas/toy-language-models.html",
    "the glossary": "glossary.html",
    "the resources": "resources.html",
    "the starters": "starters.html",
}
SIZES = {"desktop": DESKTOP, "phone": PHONE}
NARROW = {"width": 320, "height": 700}
SIGHTS: list[tuple[Literal["light", "dark"], str]] = [
    ("light", "desktop"),
    ("light", "phone"),
    ("dark", "desktop"),
    ("dark", "phone"),
]
WHOLE = {"home", "a problem"}  # axe, which takes a second, sees these in all four; others first and last


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def shipped() -> Index:
    return load_shipped()


@pytest.fixture(scope="module")
def folder(browser: Browser, shipped: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(pages(shipped, read_figures(shipped, gallery_dir())), tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture
def page(browser: Browser, base: str) -> Iterator[Page]:
    with opened(browser, base) as made:
        yield made


def count(page: Page) -> str:
    """What the page says of the number of results, once it says so."""
    until(page, "document.getElementById('count').textContent !== ''")
    return page.inner_text("#count")


def ids(page: Page) -> list[str]:
    while page.is_visible("#more"):
        page.click("#more")
    return page.locator("#list .number").all_inner_texts()


def focused(page: Page) -> str:
    text: str = page.evaluate("document.activeElement.id || document.activeElement.innerText")
    return text


class TestFiltering:
    @pytest.mark.parametrize(
        "chosen",
        [
            {},
            {"difficulty": "A"},
            {"area": "toy-language-models", "status": "unknown"},
            {"hours": "12", "compute": "free-gpu", "coding": "low"},
            {"starter": "toy-lm", "difficulty": "C"},
        ],
    )
    def test_it_finds_what_list_finds(
        self, page: Page, base: str, shipped: Index, chosen: dict[str, str]
    ) -> None:
        page.goto(base)
        for name, value in chosen.items():
            page.select_option(f"#{name}", value)
        asked: dict[str, Any] = {**chosen, **({"hours": 12.0} if "hours" in chosen else {})}
        wanted = [item["id"] for item in query(shipped, **asked)]
        assert wanted
        assert ids(page) == wanted
        assert count(page) == f"{len(wanted)} of {len(shipped.problems)} problems"

    def test_an_order_of_ones_own(self, page: Page, base: str) -> None:
        page.goto(f"{base}#sort=hours&difficulty=A")
        lows = [
            float(text.split(" to ")[0])
            for text in page.locator("#list .facts span:nth-child(3)").all_inner_texts()
        ]
        assert lows == sorted(lows)
        assert len(set(lows)) > 1

    def test_the_number_found_is_announced(self, page: Page, base: str) -> None:
        page.goto(base)
        assert page.get_attribute("#count", "role") == "status"
        assert page.is_visible("#areas")
        page.select_option("#difficulty", "D")
        assert not page.is_visible("#areas")
        page.click("#clear")
        assert page.is_visible("#areas")


class TestSearching:
    def test_the_start_of_a_word_is_enough_and_titles_come_first(self, page: Page, base: str) -> None:
        page.goto(base)
        page.fill("#q", "superpos")
        until(page, "!document.getElementById('count').textContent.startsWith('433 ')")
        assert all(
            "superpos" in title.lower() for title in page.locator("#list .row a").all_inner_texts()[:5]
        )

    def test_a_number_finds_its_problem(self, page: Page, base: str) -> None:
        page.goto(f"{base}#q=3.16")
        assert page.locator("#list .number").first.inner_text() == "3.16"

    def test_all_words_or_some_and_the_page_says_which(self, page: Page, base: str) -> None:
        page.goto(f"{base}#q=induction")
        page.wait_for_selector("#list .row")
        assert "none has all words" not in count(page)
        page.fill("#q", "induction zzyzxqq")
        until(page, "document.getElementById('count').textContent.includes('none has all words')")
        page.fill("#q", "zzyzxqq")
        until(page, "document.getElementById('count').textContent.startsWith('0 of')")

    def test_the_search_is_read_only_when_it_is_used(self, browser: Browser, base: str) -> None:
        with opened(browser, base) as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url.removeprefix(base)))
            page.goto(base, wait_until="networkidle")
            assert set(asked) >= {"", "assets/catalog.js"}
            assert not {"assets/minisearch.js", "assets/texts.js"} & set(asked)
            first = page.evaluate(
                "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
                ".reduce((sum, entry) => sum + entry.decodedBodySize, 0)"
            )
            assert 50_000 < first < 200_000
            page.focus("#q")
            until(page, "window.MiniSearch && window.mihackTexts")


class TestTheAddress:
    def test_a_deep_link_sets_the_form_and_the_list(self, page: Page, base: str) -> None:
        page.goto(f"{base}#difficulty=A&area=algorithmic-problems")
        assert page.input_value("#difficulty") == "A"
        assert page.input_value("#area") == "algorithmic-problems"
        assert {text.split(".")[0] for text in ids(page)} == {"3"}

    def test_an_odd_one_does_no_harm(self, page: Page, base: str) -> None:
        page.goto(f"{base}#difficulty=Z&area=%3Cb%3E&hours=x&nonsense=1")
        assert count(page) == "433 of 433 problems"

    def test_choices_go_into_it_and_back_undoes_them(self, page: Page, base: str) -> None:
        page.goto(base)
        page.select_option("#difficulty", "A")
        easy = count(page)
        page.select_option("#status", "unknown")
        assert page.url.endswith("#difficulty=A&status=unknown")
        page.go_back()
        assert count(page) == easy
        assert page.input_value("#status") == ""
        page.go_back()
        assert count(page) == "433 of 433 problems"
        page.go_forward()
        assert count(page) == easy

    def test_back_from_a_problem_leads_to_the_same_list(self, page: Page, base: str) -> None:
        page.goto(f"{base}#difficulty=A")
        before = count(page)
        page.locator("#list .row a").first.click()
        page.wait_for_url("**/problems/*.html")
        page.go_back()
        assert count(page) == before
        assert page.input_value("#difficulty") == "A"

    def test_a_search_is_one_step_back_not_one_for_each_letter(self, page: Page, base: str) -> None:
        page.goto(base)
        page.locator("#q").press_sequentially("grokking")
        until(page, "!document.getElementById('count').textContent.startsWith('433 ')")
        assert page.url.endswith("#q=grokking")
        page.go_back()
        assert count(page) == "433 of 433 problems"


class TestKeysAlone:
    def test_from_the_top_to_a_problem(self, page: Page, base: str) -> None:
        page.goto(base)
        page.keyboard.press("/")
        assert focused(page) == "q"
        page.keyboard.type("induction")
        until(page, "!document.getElementById('count').textContent.startsWith('433 ')")
        titles = page.locator("#list .row > a").all_inner_texts()
        page.keyboard.press("ArrowDown")
        assert focused(page) == titles[0]
        page.keyboard.press("j")
        assert focused(page) == titles[1]
        page.keyboard.press("k")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert focused(page) == titles[0]
        page.keyboard.press("Enter")
        page.wait_for_url("**/problems/*.html")

    def test_escape_clears_the_search_and_nothing_else(self, page: Page, base: str) -> None:
        page.goto(f"{base}#q=grokking&difficulty=B")
        page.wait_for_selector("#list .row")
        page.focus("#list .row a")
        page.keyboard.press("Escape")
        assert page.input_value("#q") == ""
        assert page.input_value("#difficulty") == "B"
        assert focused(page) == "q"

    def test_going_past_the_last_row_shows_more(self, page: Page, base: str) -> None:
        page.goto(base)
        before = page.locator("#list .row").count()
        page.locator("#list .row > a").last.focus()
        page.keyboard.press("j")
        assert page.locator("#list .row").count() > before
        assert focused(page) == page.locator("#list .row > a").nth(before).inner_text()

    def test_the_skip_link_is_first_and_keeps_the_address(self, page: Page, base: str) -> None:
        page.goto(f"{base}#difficulty=A")
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        page.keyboard.press("Enter")
        assert focused(page) == "main"
        assert page.url.endswith("#difficulty=A")

    def test_letters_can_be_turned_off_for_those_who_dictate(self, page: Page, base: str) -> None:
        page.goto(base)
        page.click("summary")
        page.uncheck("#keys")
        page.reload()
        page.keyboard.press("/")
        assert focused(page) != "q"


class TestAProblem:
    def test_the_command_is_copied(self, browser: Browser, base: str) -> None:
        allowed = ["clipboard-read", "clipboard-write"]
        with opened(browser, base, permissions=allowed) as page:
            page.goto(f"{base}problems/3.16.html")
            page.click("button.copy")
            page.wait_for_selector("text=Copied.")
            assert page.evaluate("navigator.clipboard.readText()") == "mihack new 3.16"

    def test_it_is_copied_where_there_is_no_clipboard(self, page: Page, base: str) -> None:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.goto(f"{base}problems/3.16.html")
        page.evaluate("addEventListener('copy', () => { window.copied = String(getSelection()) "
                      "|| document.activeElement.value; })")  # fmt: skip
        page.click("button.copy")
        page.wait_for_selector("text=Copied.")
        assert page.evaluate("window.copied") == "mihack new 3.16"

    def test_a_term_shows_its_definition_to_mouse_and_keys(
        self, page: Page, base: str, shipped: Index
    ) -> None:
        page.goto(f"{base}problems/3.16.html")
        term = page.locator("a.term", has_text="induction head").first
        start = shipped.concepts["induction-head"]["summary"][:40]
        term.hover()
        assert page.locator(".definition").inner_text().startswith(start)
        page.keyboard.press("Escape")
        assert not page.is_visible(".definition")
        term.focus()
        assert page.locator(".definition").inner_text().startswith(start)
        assert page.locator(f"#{term.get_attribute('aria-describedby')}").inner_text().startswith(start)
        page.keyboard.press("Tab")
        until(page, "document.querySelector('.definition').hidden || "
                               "document.activeElement.matches('a.term')")  # fmt: skip

    def test_a_definition_stays_on_a_phones_screen(self, browser: Browser, base: str) -> None:
        with opened(browser, base, viewport=PHONE) as page:
            page.goto(f"{base}problems/3.16.html")
            for term in page.locator("a.term").all():
                term.focus()
                box = page.locator(".definition").bounding_box()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= PHONE["width"]

    def test_a_tag_leads_to_the_problems_that_have_it(self, page: Page, base: str) -> None:
        page.goto(f"{base}problems/3.16.html")
        page.click(".tags a >> text=induction")
        page.wait_for_selector("#list .row")
        assert "3.16" in ids(page)


class TestEveryKindOfPage:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_works_from_a_folder(self, browser: Browser, folder: Path, kind: str) -> None:
        with opened(browser, folder.as_uri()) as page:
            page.goto(f"{folder.as_uri()}/{KINDS[kind]}")
            if "index.html" in KINDS[kind]:
                page.wait_for_selector("#list .row")
                page.select_option("#difficulty", "A")
                page.fill("#q", "induction")
                until(page, "window.MiniSearch && window.mihackTexts")
                assert "q=induction" in page.url
            assert page.locator("h1").count() == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_fits_a_phone_fetches_nothing_from_elsewhere_and_satisfies_axe(
        self, browser: Browser, base: str, kind: str
    ) -> None:
        axe = pytest.importorskip("axe_playwright_python").__path__[0]
        with opened(browser, base, viewport=NARROW) as page:
            page.goto(base + KINDS[kind])
            if "#q" in KINDS[kind]:
                page.wait_for_selector("#list .row")
            assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
            names = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
            assert f"{base}assets/site.css" in names
            assert [name for name in names if not name.startswith(base)] == []
            page.evaluate((Path(axe) / "axe.min.js").read_text(encoding="utf-8"))
            for scheme, size in SIGHTS if kind in WHOLE else SIGHTS[::3]:
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size(SIZES[size])
                assert page.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
                result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                assert len(result["passes"]) > 10
                told = [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in result["violations"]]
                assert told == [], (scheme, size)


# What an author of a catalogue might try: each would set window.pwned if anything of it ran.
RUN = "window.pwned=1"
ATTEMPTS = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<details open ontoggle={RUN}>",
    f"<body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN.removeprefix('window.')}</script>'>",
    f"<a href='javascript:{RUN}'>x</a>",
    f"[x](javascript:{RUN})",
    f"[x](JaVaScRiPt:{RUN})",
    f"[x](java&#x0A;script:{RUN})",
    f"[x](&#106;avascript:{RUN})",
    f"[x](<javascript:{RUN}>)",
    f"<javascript:{RUN}>",
    f"[x]\n\n[x]: javascript:{RUN}",
    f"[x](data:text/html,<script>{RUN}</script>)",
    f"![x](javascript:{RUN})",
    '![x](https://example.org/x.png "y")',
    f'[x](https://example.org/" onmouseover="{RUN})',
    f'[x](https://example.org "&quot; onmouseover=&quot;{RUN}")',
    f'" autofocus onfocus="{RUN}',
    f"' onmouseover='{RUN}",
    f"{{{{ self.__init__.__globals__ }}}}{{% for x in [] %}} ${{{RUN}}}",
    f"-->{RUN}<!--",
    f"*/;{RUN};/*",
    f"\\u003cscript>{RUN}</script>",
    "</title></style></textarea></noscript></template>",
    f"</title><script>{RUN}</script>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href=https://example.org/>",
    "<form action=https://example.org><button>",
    "<b><i><div><table><td>",
    "<!--",
    "<![CDATA[",
    "```html\n<script>",
    "~~~\n</code></pre>",
    "\u2028;" + RUN + "\u2029",
    "\u202egnp.exe\x00\x1b]8;;x\x07",
    "\ud800",
    f"x`<script>{RUN}</script>`" + "`",
    "&lt;script&gt;" + RUN + "&lt;/script&gt;",
]


def hostile(index: Index, texts: list[str]) -> Index:
    """A catalogue of one problem, all of whose texts, and those about it, are ``texts`` in turn."""
    place = iter(range(10**9))

    def given(*, lines: bool = False) -> str:
        text = texts[next(place) % len(texts)]
        return text if lines else " ".join(text.split("\n"))

    def dressed(value: Any, kept: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {k: v if k in kept else dressed(v, kept) for k, v in value.items()}
        if isinstance(value, list):
            return [dressed(one, kept) for one in value]
        return given() if isinstance(value, str) else value

    fixed = ("id", "area", "difficulty", "difficulty_basis", "status", "compute", "coding", "concepts",
             "starter", "resources", "related", "kind", "works", "see_also")  # fmt: skip
    problem = dressed(index.whole(index.problems["3.16"]), (*fixed, "sections"))
    problem |= {"id": "X-1", "works": [{"work": "w", "bearing": given()}], "related": [], "resources": ["r"]}
    problem["sections"] = {
        key: "\n\n".join(given(lines=True) for _ in range(len(texts))) for key in problem["sections"]
    }
    sections = [{"heading": given(), "text": given(lines=True)} for _ in range(5)]
    return Index(
        {
            "problems": {"X-1": problem},
            "areas": {
                problem["area"]: {**dressed(index.areas[problem["area"]], fixed), "sections": sections}
            },
            "concepts": {
                slug: dressed(index.concepts[slug], fixed) | {"body": given(lines=True)}
                for slug in problem["concepts"]
            },
            "resources": {"r": dressed(index.resources["arena-intro-mi"], fixed)},
            "works": {"w": dressed({**index.works["olsson-2022-induction"], "arxiv": None}, ())},
            "starters": {
                "algorithmic": {
                    **index.starters["algorithmic"],
                    "experiments": {
                        "induction": dressed(
                            index.starters["algorithmic"]["experiments"]["induction"], ("knobs",)
                        )
                    },
                }
            },
            "cards": {},
        }
    )


INERT = """() => {
  const ran = window.pwned !== undefined;
  const events = [...document.querySelectorAll("*")].filter(
    (one) => [...one.attributes].some((attribute) => attribute.name.startsWith("on")));
  const links = [...document.querySelectorAll("[href], [src], [action], [srcdoc]")].filter(
    (one) => !/^(https?|mailto):/.test(one.href ?? one.src ?? "none"));
  const rare = "script, iframe, object, embed, base, form, svg, style, img";
  const strange = [...document.querySelectorAll(rare)].filter(
    (one) => !(one.tagName === "SCRIPT" && one.src.startsWith(location.origin)) && one.id !== "filters");
  const refresh = document.querySelectorAll("meta[http-equiv=refresh]").length;
  return {ran, events: events.length, links: links.length, strange: strange.length, refresh};
}"""
CLEAN = {"ran": False, "events": 0, "links": 0, "strange": 0, "refresh": 0}
VISITS = ("index.html", "index.html#q=pwned", "problems/X-1.html", "areas/algorithmic-problems.html",
          "glossary.html", "resources.html", "starters.html")  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str, Path]]:
    folder = tmp_path_factory.mktemp("fuzzed")
    with served(folder) as base, opened(browser, base, bypass_csp=True) as page:
        yield page, base, folder


class TestAHostileCatalogue:
    # without the policy too: the escaping must hold by itself, and the policy is there if it ever fails
    @pytest.mark.parametrize("bypass", [False, True], ids=["with its policy", "without the policy"])
    def test_nothing_runs_and_nothing_is_fetched(
        self, browser: Browser, shipped: Index, tmp_path: Path, bypass: bool
    ) -> None:
        save(pages(hostile(shipped, ATTEMPTS)), tmp_path)
        with served(tmp_path) as base, opened(browser, base, bypass_csp=bypass) as page:
            for visit in VISITS:
                page.goto(base + visit)
                if "#q" in visit:
                    page.wait_for_selector("#list .row")
                for link in page.locator("main a.term, summary").all()[:30]:
                    link.dispatch_event("pointerover")
                assert page.evaluate(INERT) == CLEAN, visit

    def test_what_the_cards_say_is_shown_as_text(
        self, browser: Browser, shipped: Index, tmp_path: Path
    ) -> None:
        attempt = f"<script>{RUN}</script>"
        save(pages(hostile(shipped, [attempt])), tmp_path)
        with served(tmp_path) as base, opened(browser, base) as page:
            page.goto(f"{base}problems/X-1.html")
            assert attempt in page.locator("h1").inner_text()
            assert attempt in page.locator(".prose p").first.inner_text()
            page.goto(base)
            assert attempt in page.locator("#list .row a").inner_text()

    def test_the_policy_would_stop_a_script_that_got_through(self, browser: Browser, tmp_path: Path) -> None:
        """The check itself can fail: without the policy the same page runs the script."""
        page_with = pages(hostile(load_shipped(), ["x"]))["index.html"]
        broken = page_with.replace(b"<h1>", f"<script>{RUN}</script><img src=x onerror={RUN}><h1>".encode())
        save(pages(hostile(load_shipped(), ["x"])) | {"index.html": broken}, tmp_path)
        ran = []
        with served(tmp_path) as base:
            for bypass in (True, False):
                context = browser.new_context(bypass_csp=bypass)
                page = context.new_page()
                page.goto(base)
                ran.append(page.evaluate(INERT)["ran"])
                context.close()
        assert ran == [True, False]

    @settings(max_examples=12, deadline=None, derandomize=True, database=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
    @given(
        st.lists(
            st.lists(
                st.sampled_from(ATTEMPTS)
                | st.sampled_from(list("<>&'\"`[]()!*_#\n\\/=: "))
                | st.text(max_size=6),
                min_size=1,
                max_size=5,
            ).map("".join),
            min_size=1,
            max_size=12,
        )
    )
    def test_any_mixture_of_it_stays_inert(
        self, fuzzed: tuple[Page, str, Path], shipped: Index, texts: list[str]
    ) -> None:
        page, base, folder = fuzzed
        save(pages(hostile(shipped, texts)), folder)
        for visit in ("index.html", "problems/X-1.html", "glossary.html"):
            page.goto(base + visit)
            assert page.evaluate(INERT) == CLEAN, visit


class TestTenThousandProblems:
    def test_the_list_filters_and_searches(self, browser: Browser, shipped: Index, tmp_path: Path) -> None:
        originals = [shipped.whole(item) for item in shipped.problems.values()]
        many = {f"X-{n}": {**originals[n % len(originals)], "id": f"X-{n}"} for n in range(10_000)}
        kinds = {
            kind: getattr(shipped, kind) for kind in ("areas", "concepts", "resources", "works", "starters")
        }
        site = Site(Index({"problems": many, **kinds}), {})
        save(site.assets() | {"index.html": site.overviews()["index.html"]}, tmp_path)
        with served(tmp_path) as base, opened(browser, base) as page:
            page.goto(base)
            assert count(page) == "10000 of 10000 problems"
            assert page.locator("#list .row").count() <= 40
            page.select_option("#difficulty", "A")
            easy = sum("A" in item["difficulty"] for item in many.values())
            assert count(page) == f"{easy} of 10000 problems"
            page.fill("#q", "induction heads")
            until(page, f"!document.getElementById('count').textContent.startsWith('{easy} ')")
            assert page.locator("#list .row").count() > 0


def test_the_data_is_json_that_ends_where_it_should(shipped: Index) -> None:
    from mihack.site.listing import catalog_js

    text = catalog_js(hostile(shipped, ATTEMPTS)).decode()
    assert "<" not in text
    row = json.loads(text.removeprefix("window.mihackCatalog=").removesuffix(";\n"))["problems"][0]
    assert row[0] == "X-1"
