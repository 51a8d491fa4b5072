"""Neuroscope: units on typed text, their strongest places, and the page in a real browser."""

from __future__ import annotations

import html
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import PHONE, launched, opened, until
from hypothesis import given
from hypothesis import strategies as st

from mihack.lab import neuroscope
from mihack.lab.neuroscope import Page, coloured, lit, places, shade, visible
from mihack.lab.sae import Options, SparseAutoencoder
from mihack.lab.scope import Scope, open_scope, sites_of

NEURONS, HEADS = "neurons of layer 0", "heads of layer 0"
HOSTILE = "<b id=x>bold</b> ${1+1} {{value}} <img src=x onerror=alert(1)> </textarea> &amp;"


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    return open_scope("gelu-1l", tokens=6_000, folder=tmp_path_factory.mktemp("data"), device="cpu")


class TestUnits:
    def test_neurons_and_heads_of_every_layer_have_names(self, scope: Scope) -> None:
        assert {name: (site.count, site.kind) for name, site in scope.sites.items()} == {
            NEURONS: (512, "neuron"),
            HEADS: (4, "head"),
        }

    def test_values_are_those_of_the_models_own_cache(self, scope: Scope) -> None:
        words, values = scope.read("The peace of the world", scope.sites[NEURONS])
        _, cache = scope.model.run_with_cache(scope.tokens("The peace of the world"))
        torch.testing.assert_close(values, cache["blocks.0.mlp.hook_post"][0, 1:])
        assert "".join(words) == "The peace of the world"

    def test_a_heads_value_is_the_length_of_what_it_gathers(self, scope: Scope) -> None:
        _, values = scope.read("The peace of the world", scope.sites[HEADS])
        _, cache = scope.model.run_with_cache(scope.tokens("The peace of the world"))
        torch.testing.assert_close(values, cache["blocks.0.attn.hook_z"][0, 1:].norm(dim=-1))

    def test_the_start_token_counts_as_nothing(self, scope: Scope) -> None:
        site = scope.sites[HEADS]
        assert scope.values(scope.tokens("We"), site)[0, 0].abs().max() == 0
        places = scope.found.sites[site.hook].place
        assert (places % scope.found.width > 0).all()

    def test_the_text_of_a_special_token_is_text(self, scope: Scope) -> None:
        assert scope.tokens("<|start|>").shape[1] > 2
        assert (scope.tokens("a <|start|> b")[0] == scope.model.tokenizer.bos_token_id).sum() == 1

    def test_a_text_longer_than_the_model_is_cut(self, scope: Scope) -> None:
        assert scope.read("peace " * 2000, scope.sites[NEURONS])[1].shape == (255, 512)

    def test_no_text_is_no_tokens(self, scope: Scope) -> None:
        words, values = scope.read("", scope.sites[NEURONS])
        assert words == []
        assert scope.unusual(values, scope.sites[NEURONS]) == []

    def test_what_a_text_drives_furthest_is_counted_from_the_mean(self, scope: Scope) -> None:
        site = scope.sites[NEURONS]
        _, values = scope.read("The Congress of the United States", site)
        found, tokens = scope.found.sites[site.hook], scope.found.tokens
        unit, far = scope.unusual(values, site)[0]
        expected = (values[:, unit].max() - found.mean(tokens)[unit]) / found.variance(tokens)[unit].sqrt()
        assert far == pytest.approx(expected.item(), rel=1e-4)
        assert far > 2

    def test_the_token_of_a_place_has_the_value_that_the_scan_kept(self, scope: Scope) -> None:
        site = scope.sites[NEURONS]
        for shown in scope.places(site, 7).values():
            for example, values in shown:
                assert values[example.at] == pytest.approx(example.value, abs=1e-5)
                assert len(values) == len(example.tokens)
        strongest = [example.value for example, _ in scope.places(site, 7)["strongest"]]
        assert strongest == sorted(strongest, reverse=True)
        assert strongest[0] == pytest.approx(scope.largest(site, 7))

    def test_in_a_larger_model_only_the_token_itself_is_coloured(self, scope: Scope) -> None:
        scope.small = False
        try:
            ((example, values), *_) = scope.places(scope.sites[NEURONS], 7)["strongest"]
        finally:
            scope.small = True
        assert [value is not None for value in values] == [at == example.at for at in range(len(values))]

    def test_a_second_opening_reads_nothing_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = open_scope("gelu-1l", tokens=1_000, folder=tmp_path, device="cpu")
        monkeypatch.setattr("mihack.lab.scan._keeper", None)  # whoever scans would call it
        again = open_scope("gelu-1l", tokens=1_000, folder=tmp_path, device="cpu")
        for site in first.sites.values():
            assert torch.equal(first.found.sites[site.hook].top, again.found.sites[site.hook].top)

    def test_a_dictionary_shows_its_latents(self, scope: Scope, tmp_path: Path) -> None:
        sae = SparseAutoencoder(Options(d_in=128, latents=32, k=4))
        sae.save(tmp_path / "sae.safetensors")
        opened = open_scope(
            "gelu-1l", tokens=500, folder=tmp_path, dictionary=tmp_path / "sae.safetensors",
            hook="blocks.0.hook_resid_post", device="cpu",
        )  # fmt: skip
        site = opened.sites["features of blocks.0.hook_resid_post"]
        _, values = opened.read("The peace of the world", site)
        assert values.shape[1] == site.count == 32
        assert ((values > 0).sum(1) <= 4).all()

    def test_layers_and_dictionaries_that_do_not_fit_are_refused(self, scope: Scope) -> None:
        with pytest.raises(ValueError, match="layers 0 to 0"):
            sites_of(scope.model, [1])
        with pytest.raises(ValueError, match="which hook"):
            sites_of(scope.model, dictionary=SparseAutoencoder(Options(d_in=4, latents=8, k=2)))

    def test_features_stand_in_place_of_the_neurons_that_they_read(self, scope: Scope) -> None:
        sae = SparseAutoencoder(Options(d_in=512, latents=16, k=2))
        names = list(sites_of(scope.model, dictionary=sae, hook="blocks.0.mlp.hook_post"))
        assert names == ["features of blocks.0.mlp.hook_post", HEADS]


class TestMarkup:
    @given(st.text())
    def test_no_token_becomes_markup(self, token: str) -> None:
        made = coloured([token], [1.0], 1.0)
        assert made.count("<") == 2
        assert made.count(">") == 2
        inside = re.sub(r"^<span[^>]*>|</span>$", "", made)
        marked = "".join(neuroscope.MARKS.get(letter, letter) for letter in token)
        assert html.unescape(inside) == (marked or "∅")

    def test_strong_values_are_darker_and_the_sign_is_told(self) -> None:
        assert shade(1, 2) == f"background-color:rgba({neuroscope.BLUE},0.300)"
        assert shade(-9, 2) == f"background-color:rgba({neuroscope.ORANGE},0.600)"
        assert shade(None, 1) == shade(0, 1) == "background-color:transparent"

    def test_line_ends_and_empty_tokens_are_seen(self) -> None:
        assert visible("\n") == "⏎"
        assert visible("") == "∅"

    def test_the_strongest_token_is_told_in_words_too(self, scope: Scope) -> None:
        site = scope.sites[NEURONS]
        words, values = scope.read("the peace of the world", site)
        told = lit(scope, site, 3, words, values[:, 3].tolist())
        best = words[int(values[:, 3].argmax())].strip()
        assert f"neuron 3, strongest on “{best}”" in told
        assert "no token yet" in lit(scope, site, 3, [], [])

    def test_places_are_listed_with_how_often_the_unit_is_active(self, scope: Scope) -> None:
        shown = places(scope, scope.sites[NEURONS], 3)
        assert "tokens; mean" in shown
        assert shown.count('class="ns-text"') == 13

    @pytest.mark.parametrize(("typed", "unit"), [(None, 0), (-5, 0), (10_000, 511), (7.0, 7)])
    def test_a_unit_that_is_not_there_becomes_the_nearest(
        self, scope: Scope, typed: float | None, unit: int
    ) -> None:
        assert Page(scope).chosen(NEURONS, typed)[1] == unit


class TestCommand:
    def test_without_gradio_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def missing() -> Any:
            raise ImportError

        monkeypatch.setattr(neuroscope, "_gradio", missing)
        assert neuroscope.main([]) == 2
        assert 'pip install "gradio' in capsys.readouterr().err

    def test_a_model_that_is_not_there_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(neuroscope, "_gradio", lambda: None)
        assert neuroscope.main(["--model", "./nowhere"]) == 2
        assert "nowhere" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(scope: Scope) -> Iterator[str]:
    """The page, served in this process; no connection may go anywhere but to this machine."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    asked: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, to: Any) -> None:
        if isinstance(to, tuple) and to[0] not in {"127.0.0.1", "::1", "localhost"}:
            asked.append(to)
        connect(self, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        made = neuroscope.page(scope, "gelu-1l")
        try:
            yield neuroscope.launch(made, block=False)
        finally:
            made.close()
    assert asked == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


READY = "document.querySelectorAll('#places .ns-text').length === 13"


def holds(selector: str, text: str) -> str:
    """JavaScript: the element says the text, white space aside."""
    bare = "".join(text.split())
    return f"(document.querySelector({selector!r})?.innerText ?? '').replace(/\\s/g, '').includes({bare!r})"


class TestPage:
    def test_it_is_served_to_this_machine_alone(self, address: str) -> None:
        assert address.startswith("http://127.0.0.1:")

    def test_typed_text_lights_up(self, address: str, browser: Any, scope: Scope) -> None:
        with opened(browser, address) as page:
            page.goto(address)
            until(page, READY)
            page.locator("#typed textarea").click()
            page.keyboard.press("Control+a")
            started = page.evaluate("performance.now()")
            page.keyboard.type("The peace of the world")
            until(page, holds("#lit", "The peace of the world"))
            assert page.evaluate("performance.now()") - started < 5000  # it takes a tenth of this
            _, values = scope.read("The peace of the world", scope.sites[NEURONS])
            titles = page.locator("#lit .ns-token").evaluate_all("all => all.map(one => one.title)")
            assert titles == [f"{value:.3g}" for value in values[:, 0].tolist()]
            shades = page.locator("#lit .ns-token").evaluate_all(
                "all => all.map(one => one.style.backgroundColor)"
            )
            assert len(set(shades)) > 2

    def test_a_unit_that_the_text_drives_is_one_click_away(
        self, address: str, browser: Any, scope: Scope
    ) -> None:
        with opened(browser, address) as page:
            page.goto(address)
            until(page, READY)
            choice = page.locator("label:has(input[type=radio])").first
            unit = int(choice.inner_text().split(":")[0])
            choice.click()
            until(page, holds("#lit", f"neuron {unit},"))
            largest = scope.largest(scope.sites[NEURONS], unit)
            until(page, holds("#places", f"largest {largest:.3g}"))

    def test_heads_are_chosen_from_the_list(self, address: str, browser: Any) -> None:
        with opened(browser, address) as page:
            page.goto(address)
            until(page, READY)
            page.get_by_label("part of the model").click()
            page.get_by_role("option", name=HEADS).click()
            until(page, holds("#lit", "head 0,"))

    def test_typed_markup_stays_text(self, address: str, browser: Any) -> None:
        with opened(browser, address) as page:
            page.goto(address)
            until(page, READY)
            page.locator("#typed textarea").click()
            page.keyboard.press("Control+a")
            page.keyboard.type(HOSTILE)
            until(page, holds("#lit", HOSTILE))
            assert page.locator("#lit b, #lit img, #places b, #places img").count() == 0

    def test_a_phone_shows_it_without_sideways_scrolling(self, address: str, browser: Any) -> None:
        with opened(browser, address, viewport=PHONE) as page:
            page.goto(address)
            until(page, READY)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing(self, address: str, browser: Any, scheme: Any) -> None:
        axe = pytest.importorskip("axe_playwright_python").__path__[0]
        with opened(browser, address, color_scheme=scheme) as page:
            page.goto(address)
            until(page, READY)
            page.evaluate((Path(axe) / "axe.min.js").read_text(encoding="utf-8"))
            result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            assert len(result["passes"]) > 10
            assert [(found["id"], found["nodes"][0]["html"]) for found in result["violations"]] == []


def heeds_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and its children with it: not this one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_the_command_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    command = [sys.executable, "-m", "mihack.lab.neuroscope", "--tokens", "500"]
    where = {**os.environ, "PYTHONPATH": str(Path(neuroscope.__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=tmp_path, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=heeds_ctrl_c,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        for line in started.stdout:
            if "The page is at http://127.0.0.1:" in line:
                break
        started.send_signal(signal.SIGINT)
        rest = started.stdout.read()
        assert started.wait(timeout=30) == 0
    assert "Traceback" not in rest


class SomePage:
    """Stands for gradio's page: its server is always up, and remembers whether it was closed."""

    closed = False

    def launch(self, **_: object) -> tuple[None, str, None]:
        return None, "http://127.0.0.1:7860/", None

    def block_thread(self) -> None:
        raise AssertionError("not reached")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes while the address is being printed."""

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", press)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_as_soon_as_the_address_is_printed_closes_the_page() -> None:
    made = SomePage()
    try:
        neuroscope.launch(made)
    except KeyboardInterrupt:  # pytest itself would stop at it
        pytest.fail("Ctrl-C got out of launch")
    assert made.closed


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_is_the_callers_own_where_launch_does_not_block() -> None:
    made = SomePage()
    with pytest.raises(KeyboardInterrupt):
        neuroscope.launch(made, block=False)
    assert not made.closed


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    where = {**os.environ, "PYTHONPATH": str(Path(neuroscope.__file__).parents[2])}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "mihack.lab.neuroscope", "--tokens", "500", "--port", str(port)]
        ended = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert f"port {port} is taken. Choose another with --port" in ended.stderr
    assert "Traceback" not in ended.stderr
