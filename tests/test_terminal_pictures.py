"""The pictures of README.md: real commands of it, drawn as they were printed, and nothing else in them."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_terminal", ROOT / "scripts" / "record_terminal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


recorder = script()
Picture = recorder.Picture


def screen(svg: str) -> list[str]:
    """The picture as lines of characters again, each text put at the column where it is drawn."""
    lines: dict[int, str] = {}
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        row = (int(text.get("y", "0")) - recorder.MARGIN - recorder.FONT) // recorder.LINE
        column = round((float(text.get("x", "0")) - recorder.MARGIN) / recorder.ADVANCE)
        lines[row] = lines.get(row, "").ljust(column) + (text.text or "")
    return [lines.get(row, "") for row in range(max(lines) + 1)]


class TestTheReadme:
    def test_shows_each_picture_and_none_that_is_not_recorded(self) -> None:
        shown = re.findall(r"!\[[^]]{20,}\]\(docs/images/(terminal-[a-z]+)\.svg\)", README)
        assert sorted(shown) == sorted(recorder.PICTURES)

    @pytest.mark.parametrize("name", recorder.PICTURES)
    def test_gives_the_command_of_each_picture(self, name: str) -> None:
        command = recorder.PICTURES[name].command
        lines = re.findall(r"^ {4}(mihack .*?)(?: {2,}#.*)?$", README, flags=re.M)
        assert command in lines or f"`{command}`" in README

    @pytest.mark.parametrize("name", recorder.PICTURES)
    def test_the_picture_is_of_that_command(self, name: str) -> None:
        svg = (recorder.TARGET / f"{name}.svg").read_text(encoding="utf-8")
        assert screen(svg)[0] == f"$ {recorder.PICTURES[name].command}"

    @pytest.mark.parametrize("name", recorder.PICTURES)
    def test_a_picture_fetches_and_runs_nothing(self, name: str) -> None:
        svg = (recorder.TARGET / f"{name}.svg").read_text(encoding="utf-8")
        assert {element.tag for element in ElementTree.fromstring(svg).iter()} <= {
            f"{SVG}{tag}" for tag in ("svg", "rect", "g", "text")
        }
        assert not re.search(r"url\(|href|@import|\son\w+=", svg)


class TestDrawing:
    def test_every_character_stands_in_its_column(self) -> None:
        output = "\x1b[1mid     diff\x1b[0m  title\n\n  3.1  A     <Sort> & \x1b[36mread\x1b[0m\n日本   wide"
        want = ["$ mihack list", "id     diff  title", "", "  3.1  A     <Sort> & read"]
        assert screen(recorder.draw(Picture("mihack list", 9), output))[:4] == want

    def test_what_is_cut_is_counted(self) -> None:
        lines = screen(recorder.draw(Picture("mihack list", 2), "a\nb\nc\nd\ne"))
        assert lines == ["$ mihack list", "a", "b", "(3 more lines)"]

    def test_bold_and_colours_are_those_of_the_terminal(self) -> None:
        svg = recorder.draw(
            Picture("mihack x", 9), "\x1b[1mbold\x1b[0m \x1b[31mred\x1b[0m \x1b[94mblue\x1b[0m"
        )
        looks = {text.text: text.attrib for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
        assert looks["bold"]["font-weight"] == "bold"
        assert looks["red"]["fill"] == recorder.COLOURS[1]
        assert looks["blue"]["fill"] == recorder.COLOURS[4]

    def test_every_colour_is_legible_on_the_paper(self) -> None:
        for colour in (recorder.INK, recorder.FAINT, *recorder.COLOURS):
            assert contrast(colour, recorder.PAPER) >= 7

    def test_the_same_command_gives_the_same_bytes(self) -> None:
        picture = Picture("mihack new 3.16 my-repo", 40)
        first, second = (recorder.draw(picture, recorder.record(picture.command)) for _ in range(2))
        assert first == second
        assert any("README.md" in line for line in screen(first))


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2: (lighter + 0.05) / (darker + 0.05), of relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
