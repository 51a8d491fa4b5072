"""Catalogue text is data: whatever a card says, it arrives as said, and does nothing."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from baking import bake, problem, tiny  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mihack.errors import MihackError
from mihack.scaffold import encode, percent

MARK = "PWNED"
TITLES = [
    "{{ 7*7 }}",
    '{{ cycler.__init__.__globals__.os.popen("touch PWNED").read() }}',
    "{{ cookiecutter.__class__.__mro__ }}",
    "{% set of heads %}",
    "{% include '/etc/passwd' %}",
    "{# a comment #}",
    "why does {{x}} hold",
    "{% raw %}",
    'say "hi"',
    "it's",
    "a\\b \\n \\x41 \\u0041 \\N{DIGIT ONE}",
    "two\nlines",
    "two\r\nlines\rthree",
    "form\ffeed, vertical\vtab, \x85, \u2028, \u2029, \x1c",
    "\N{ROCKET} emoji \N{FAMILY}\u200d",
    "x" * 300,
    "שלום \u202e right to left \u202c",
    "*/ /* //",
    '"""',
    "'''",
    '"""\nimport os; os.system("touch PWNED")\n"""',
    "# %%",
    "# %% [markdown]",
    "%% cell",
    "%run PWNED",
    "!touch PWNED",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$(touch PWNED)",
    "`touch PWNED`",
    "``` ```",
    "a | b | c",
    "[link](javascript:alert(1))",
    "![image](https://example.org/x.png)",
    "[x]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "**bold** _it_ ~~gone~~ *a*b*",
    "# heading",
    "- bullet",
    "1. number",
    "&lt;b&gt; &amp; &#106;",
    "$x^2$ and \\(y\\)",
    "coding: utf-7",
    "-*- coding: rot13 -*-",
    "; DROP TABLE problems",
    "]]> -->",
    "--help",
    "../../etc/passwd",
    "C:\\Windows\\CON",
    "%s %d %(x)s {0} {name} ${HOME} %PATH%",
    "\x1b[31mred\x07",
    "null\x00byte",
    "\ufeffbom",
    "lone \ud800 surrogate",
    "'] + __import__('os').system('touch PWNED') + ['",
    "a\u0301 e\u0308 \u200b zero width",
    " spaces   inside ",
]


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plan in an empty folder with an empty home, and find both empty afterwards."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "here").iterdir()) == []


def shown(markdown: str) -> str:
    """The text that a reader sees of one line of Markdown, which must hold no markup at all."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 1, markdown
    kinds = {child.type for child in inline[0].children or []}
    assert kinds <= {"text", "text_special"}, kinds
    return "".join(child.content for child in inline[0].children or [])


def check_arrival(title: str, files: dict[str, bytes]) -> None:
    wanted = encode.one_line(title)
    expected = f"9.1 {wanted}".strip()
    # README, PROBLEM and the notebook show the title as text
    for name in ("README.md", "PROBLEM.md"):
        first = files[name].decode().split("\n")[0]
        assert shown(first) == expected, name
    notebook = json.loads(files["notebook.ipynb"])
    first = "".join(notebook["cells"][0]["source"]).split("\n")[0]
    assert shown(first) == expected
    # the script holds it in comments alone: the program is that of a harmless title
    script = files["experiment.py"].decode()
    assert ast.dump(ast.parse(script)) == ast.dump(ast.parse(bake()["experiment.py"]))
    assert compile(files["experiment.py"], "experiment.py", "exec")  # from bytes: coding cookies
    assert percent.parse(script).cells[0].source.split("\n")[0] == first
    if sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads(files["pyproject.toml"].decode())["project"]
        assert project["description"] == expected
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", project["name"])


@pytest.mark.parametrize("title", TITLES, ids=lambda title: ascii(title)[:40])
def test_title_arrives_and_does_nothing(title: str) -> None:
    files = bake(problem(title=title))
    assert set(files) == set(bake())
    check_arrival(title, files)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters() | st.sampled_from(list("{}%#\\\"'`<>[]()*_~$&!|\n\r\f\u2028\u202e"))))
def test_any_title_arrives(title: str) -> None:
    check_arrival(title, bake(problem(title=title)))


@pytest.mark.parametrize("title", TITLES, ids=lambda title: ascii(title)[:40])
def test_text_everywhere_else_does_nothing_either(title: str) -> None:
    """The same texts as id, remains, sections, labels and addresses."""
    sections = dict.fromkeys(("problem", "why", "first_steps", "further", "prior_work"), title)
    card = problem(
        id=title,
        remains=title,
        sections=sections,
        sources=[{"label": title, "url": title}],
        works=[{"work": "gauss-1784", "bearing": title}],
        file=f"problems/{title}.md",
    )
    files = bake(card, author=title, name=title)
    assert set(files) == set(bake())
    compile(files["experiment.py"], "experiment.py", "exec")
    notebook = json.loads(files["notebook.ipynb"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")
    for name in ("README.md", "PROBLEM.md"):
        assert_harmless(files[name].decode())
    assert_harmless("".join(notebook["cells"][0]["source"]))
    if sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads(files["pyproject.toml"].decode())["project"]
        assert [author["name"] for author in project["authors"]] == [encode.one_line(title)]


def assert_harmless(markdown: str) -> None:
    """No raw HTML, and no link but to http(s), mailto or an anchor, as a real parser sees it."""
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        assert token.type != "html_block", token.content
        for child in token.children or []:
            assert child.type != "html_inline", child.content
            target = str(child.attrGet("href") or child.attrGet("src") or "http:")
            assert target.startswith(("http:", "https:", "mailto:", "#")), target


TRICKS = [
    "a `<b>` and <b>",
    "`` ` <img> ` ``",
    "\\`<img src=x>`",
    "`a\nb` <img> `c`",
    "# `\na ` b ` <img> `",
    "[a](b`c) <img> `d",
    "[a](https://x.org/`c) <img> `d",
    "- a\n  ```\n<img src=x>",
    " ```\n```\n<img>",
    "> ```\n<img>",
    "```\n<kept>\n```\n<img>",
    "~~~\n```\n~~~\n<img>",
    "``` a`b\n<img>",
    "````\n```\n<kept>\n````\n<img>",
    "| ` | x ` y ` <img> ` |\n|---|---|\n| ` | x ` y ` <img> ` |",
    "[x](java&#115;cript:alert(1))",
    "[x](\njavascript:alert(1))",
    "[x]( <javascript:alert(1)>)",
    "[x][y]\n\n[y]: javascript:alert(1)",
    "[x][y]\n\n[y]:\n  javascript:alert(1)",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,AAAA)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](\\javascript:alert(1))",
    "[x](//example.org)",
    "<!-- comment -->",
    "<?php ?>",
    "<![CDATA[x]]>",
    "</details>",
    "<https://example.org>",
    "<javascript:alert(1)>",
    "text\n<div>\n\n</div>",
    "    <indented>",
    "`unclosed <img src=x onerror=alert(1)>",
]


@pytest.mark.parametrize("text", TRICKS)
def test_block_text_cannot_smuggle_html_or_links(text: str) -> None:
    assert_harmless(encode.markdown_block(text))


PIECES = [
    "<img>", "<b>", "</b>", "<!--", "`", "``", "```", "~~~", "\n", "\n\n", "    ", "  ", "- ", "> ",
    "# ", "[a]", "(javascript:x)", "(https://x.org)", "[a]: ", "javascript:x", "\\", "|", "$", "a", " ",
    "!", "&#60;", "<", ">", "](", "1. ", "\t", "---", "===", "\"", "'",
]  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_mixture_smuggles_html_or_links(text: str) -> None:
    assert_harmless(encode.markdown_block(text))


def test_ordinary_markdown_stays_as_it_is() -> None:
    text = (
        "A *word*, `x < y`, `List[int]`, a [link](https://example.org/a_b), $a < b$, 3 < 4.\n\n"
        "1. one\n   - two\n\n```python\nif a <b: pass  # <tag>\n```\n\n> quoted"
    )
    assert encode.markdown_block(text) == text


def test_code_keeps_its_angle_brackets_where_it_is_certainly_code() -> None:
    assert encode.markdown_block("the token `<bos>` and <bos>") == "the token `<bos>` and &lt;bos>"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_toml_strings_say_exactly_the_line(text: str) -> None:
    tomllib = pytest.importorskip("tomllib")
    assert tomllib.loads(f"a = {encode.toml_string(text)}")["a"] == encode.one_line(text)


@pytest.mark.parametrize("title", TITLES, ids=lambda title: ascii(title)[:40])
def test_a_knob_may_hold_any_text(title: str) -> None:
    if "\ud800" in title or "\x00" in title:
        pytest.skip("no command line can carry it")
    card = problem(starter={"name": "tiny", "parameters": {"task": "count", "word": title}})
    script = bake(card)["experiment.py"].decode()
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse(script).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["WORD"]) == title
    assert len(percent.parse(script).cells) == len(percent.parse(bake()["experiment.py"].decode()).cells)


@pytest.mark.parametrize("task", ["../count", "/etc/passwd", "count/../count", "{{ 7*7 }}", "", "COUNT"])
def test_a_card_cannot_name_a_file(task: str) -> None:
    with pytest.raises(MihackError):
        bake(problem(starter={"name": "tiny", "parameters": {"task": task}}))
