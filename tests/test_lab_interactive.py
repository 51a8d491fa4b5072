"""Interactive views: they hold everything, fetch nothing, and show hostile text as text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_lab_patching import native  # noqa: E402

from mihack.lab import interactive  # noqa: E402
from mihack.lab.interactive import View  # noqa: E402
from mihack.lab.scan import neurons, scan  # noqa: E402

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "<img onerror=x>", '"', "'", "&lt;", "\\", "\n", "",
           "\u2028", "日本", "\ud800", "]]>", "${x}", "`"]  # fmt: skip
GENERATOR = torch.Generator().manual_seed(0)
TEXT = st.text(st.characters(codec=None), max_size=8)


def patterns(layers: int, heads: int, size: int) -> Any:
    random = torch.rand(layers, heads, size, size, generator=GENERATOR).tril()
    return random / random.sum(-1, keepdim=True)


def an_attention(tokens: list[str]) -> View:
    return interactive.attention(patterns(2, 3, len(tokens)), tokens)


def a_text(tokens: list[str]) -> View:
    return interactive.token_values([tokens], {"loss": [list(range(len(tokens)))]})


def examples_of(tokens: list[str]) -> View:
    model = native()
    rows = (torch.arange(40).view(4, 10) % len(tokens)).long()
    found = scan(model, rows, neurons(model), k=3, sample=16)
    units = [("blocks.0.mlp.hook_post", 2), ("blocks.1.mlp.hook_post", 5)]
    return interactive.examples(found, rows, units, tokens, count=3)


KINDS = [an_attention, a_text, examples_of]


class Parsed(HTMLParser):
    """The elements of a document, their attributes, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += text

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


class TestThePage:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_fetches_nothing(self, kind: Callable[[list[str]], View]) -> None:
        html = kind(["a", "b", "c"]).html()
        assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref|url\(|import\b|fetch|XMLHttp", html)
        policy = next(values["content"] for _, values in Parsed(html).elements if "http-equiv" in values)
        assert policy is not None
        assert policy.startswith("default-src 'none'")

    @pytest.mark.parametrize("kind", KINDS)
    def test_hostile_tokens_add_no_element(self, kind: Callable[[list[str]], View]) -> None:
        tame = Parsed(kind(["x"] * len(HOSTILE)).html())
        hostile = Parsed(kind(HOSTILE).html())
        assert hostile.elements == tame.elements
        assert hostile.scripts[1] == tame.scripts[1]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(TEXT, min_size=1, max_size=6), TEXT)
    def test_any_text_comes_back_as_it_was(self, tokens: list[str], title: str) -> None:
        view = View(**{**vars(a_text(tokens)), "title": title})
        parsed = Parsed(view.html())
        assert parsed.data["rows"][0]["tokens"] == tokens
        assert [tag for tag, _ in parsed.elements].count("script") == 2
        frame = Parsed(view._repr_html_()).elements
        assert [tag for tag, _ in frame] == ["iframe"]
        assert frame[0][1]["srcdoc"] == view.html()

    def test_the_frame_is_sandboxed(self) -> None:
        (_, frame), *others = Parsed(a_text(["a"])._repr_html_()).elements
        assert frame["sandbox"] == "allow-scripts"  # and no same-origin: the notebook is out of reach
        assert not others

    def test_it_is_saved_whole(self, tmp_path: Path) -> None:
        view = a_text(HOSTILE)
        path = view.save(tmp_path / "new" / "view.html")
        assert path.read_text(encoding="utf-8") == view.html()
        assert [file.name for file in path.parent.iterdir()] == ["view.html"]

    def test_light_dark_and_the_keyboard_are_seen_to(self) -> None:
        html = a_text(["a"]).html()
        assert "prefers-color-scheme: dark" in html
        assert ":focus-visible" in html
        assert 'aria-live="polite"' in html


class TestTheData:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(), min_size=1, max_size=8))
    def test_values_to_six_digits(self, values: list[float]) -> None:
        view = interactive.token_values([["t"] * len(values)], {"v": [values]})
        found = Parsed(view.html()).data["rows"][0]["values"][0]
        for one, two in zip(values, found, strict=True):
            assert two == (pytest.approx(one, rel=1e-5) if abs(one) < float("inf") else None)

    def test_patterns_to_sixteen_bits(self) -> None:
        given_ = patterns(2, 3, 5)
        data = Parsed(interactive.attention(given_, list("abcde")).html()).data
        assert (data["patterns"]["heads"], data["patterns"]["size"]) == (3, 5)
        found = interactive.np.frombuffer(interactive.base64.b64decode(data["patterns"]["data"]), dtype="<u2")
        torch.testing.assert_close(
            torch.tensor(found / 65535).view(given_.shape), given_.double(), atol=1e-5, rtol=0
        )

    def test_examples_are_those_of_the_scan(self) -> None:
        view = examples_of([f"w{n}" for n in range(40)])
        unit = view.data["units"][1]
        assert unit["name"] == "blocks.1.mlp.hook_post 5"
        strongest = unit["groups"][0]["examples"]
        assert len(strongest) == 3
        assert [e["value"] for e in strongest] == sorted((e["value"] for e in strongest), reverse=True)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda: interactive.attention(patterns(1, 1, 3), ["a", "b"]),
            lambda: interactive.attention(patterns(1, 1, 2)[0], ["a", "b"]),
            lambda: interactive.attention(torch.full((1, 1, 1, 1), torch.nan), ["a"]),
            lambda: interactive.attention(torch.full((1, 1, 1, 1), 1.5), ["a"]),
            lambda: interactive.attention(patterns(2, 1, 1), ["a"], scores={"s": torch.zeros(1, 1)}),
            lambda: interactive.head_grid({}),
            lambda: interactive.head_grid({"s": torch.zeros(3)}),
            lambda: interactive.token_values([["a", "b"]], {"v": [[1.0]]}),
            lambda: interactive.token_values([["a"]], {}),
        ],
    )
    def test_what_does_not_fit_is_refused(self, wrong: Callable[[], View]) -> None:
        with pytest.raises(ValueError, match=r"want|score|values|no "):
            wrong()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a view's script, act on it, and say what is then to be seen."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node to run the script")

    def running(view: View, *actions: Any) -> dict[str, Any]:
        path = view.save(tmp_path / "view.html")
        command = [node, str(Path(__file__).with_name("page.js")), str(path), json.dumps(actions)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return running


def of(seen: dict[str, Any], name: str) -> list[Any]:
    return [e for e in seen["elements"] if e["tag"] == name or e.get("class", "").split(" ")[0] == name]


class TestTheScript:
    def test_every_token_is_shown_as_it_is(self, run: Callable[..., Any]) -> None:
        tokens = [token for token in HOSTILE if token not in {"\n", "", "\ud800"}]
        for kind in (an_attention, a_text):
            assert [span["text"] for span in of(run(kind(tokens)), "token")] == tokens
        assert [span["text"] for span in of(run(a_text(["\n", "", "\t"])), "token")] == ["⏎", "∅", "→"]

    def test_a_token_says_where_its_head_attends(self, run: Callable[..., Any]) -> None:
        pattern = torch.zeros(2, 2, 3, 3)
        pattern[:, :, :, 0] = 1
        pattern[1, 0] = torch.tensor([[1, 0, 0], [0.25, 0.75, 0], [0, 0.4, 0.6]])
        view = interactive.attention(pattern, ["a", "b", "c"])
        seen = run(view, ["click", "button", 2], ["focus", "token", 2])
        assert seen["status"] == '2 "c" attends to 2 "c" 0.60, 1 "b" 0.40'
        assert [button["aria-pressed"] for button in of(seen, "button")] == [
            "false",
            "false",
            "true",
            "false",
        ]
        assert "0.360" in of(seen, "token")[2]["style"]
        assert "0.240" in of(seen, "token")[1]["style"]
        back = run(view, ["click", "button", 2], ["change", "select", 0, "1"], ["mouseenter", "token", 1])
        assert back["status"] == '1 "b" is attended to by 1 "b" 0.75, 2 "c" 0.40'

    def test_the_matrix_is_painted_as_it_is(self, run: Callable[..., Any]) -> None:
        given_ = patterns(1, 2, 4)
        seen = run(interactive.attention(given_, list("abcd")), ["click", "button", 1])
        (canvas,) = of(seen, "canvas")
        side = int(canvas["width"]) // 4
        found = torch.zeros(4, 4)
        for x, y, *_, alpha in canvas["painted"]:
            found[y // side, x // side] = alpha
        torch.testing.assert_close(found, given_[0, 1], atol=1e-5, rtol=0)
        pointed = run(
            interactive.attention(given_, list("abcd")),
            ["mousemove", "canvas", 0, {"offsetX": 1.5 * side, "offsetY": 3.5 * side}],
        )
        assert pointed["status"] == f'query 3 "d", key 1 "b": {given_[0, 0, 3, 1]:.3f}'

    def test_a_grid_says_its_values_and_is_walked_with_the_arrow_keys(self, run: Callable[..., Any]) -> None:
        scores = torch.tensor([[0.1, -0.5], [float("nan"), 0.25]])
        view = interactive.head_grid({"induction": scores, "copying": scores * 2})
        seen = run(view)
        assert [button["text"] for button in of(seen, "button")] == ["0.10", "-0.50", "", "0.25"]
        assert [button["tabindex"] for button in of(seen, "button")] == ["0", "-1", "-1", "-1"]
        assert "230,159,0" in of(seen, "button")[0]["style"]  # above zero: orange
        assert "0,114,178" in of(seen, "button")[1]["style"]  # below: blue
        assert not of(seen, "canvas")
        walked = run(view, ["keydown", "button", 0, {"key": "ArrowDown"}])
        assert walked["status"] == "layer 1 head 0: induction no value"
        assert [button["tabindex"] for button in of(walked, "button")] == ["-1", "-1", "0", "-1"]
        other = run(view, ["change", "select", 0, "1"], ["mouseenter", "button", 3])
        assert other["status"] == "layer 1 head 1: copying 0.5"

    def test_the_feature_to_show_can_be_chosen(self, run: Callable[..., Any]) -> None:
        values = {"neuron 1": [[0.0, 2.0], [1.0]], "neuron 2": [[-4.0, 0.0], [float("inf")]]}
        view = interactive.token_values([["a", "b"], ["c"]], values, unit="nats")
        seen = run(view, ["focus", "token", 1])
        assert seen["status"] == '1 "b": 2 nats'
        assert [token["title"] for token in of(seen, "token")] == ["0", "2", "1"]
        other = run(view, ["change", "select", 0, "1"], ["focus", "token", 0])
        assert other["status"] == '0 "a": -4 nats'
        assert [token["title"] for token in of(other, "token")] == ["-4", "0", "no value"]
        assert of(other, "legend")[0]["text"] == "nats-44"  # name, lowest, highest

    def test_examples_show_the_chosen_unit(self, run: Callable[..., Any]) -> None:
        view = examples_of([f" w{n}" for n in range(40)])
        seen = run(view, ["change", "select", 0, "1"])
        unit = view.data["units"][1]
        lines = [example for group in unit["groups"] for example in group["examples"]]
        texts = ["".join(example["tokens"]) for example in lines]
        assert [line["text"].split(" ", 1)[1] for line in of(seen, "text")] == [text[1:] for text in texts]
        marked = [token["text"] for token in of(seen, "token") if token["class"] == "token here"]
        assert marked == [example["tokens"][example["at"]] for example in lines]
        assert unit["about"] in [element["text"] for element in seen["elements"]]

    def test_whatever_can_be_pointed_at_can_be_reached_by_keyboard(self, run: Callable[..., Any]) -> None:
        for kind in KINDS:
            for element in run(kind(["a", "b"]))["elements"]:
                if "mouseenter" in element["acts"]:
                    assert "focus" in element["acts"]
                    assert "tabindex" in element
