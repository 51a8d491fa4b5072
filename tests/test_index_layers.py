"""User catalogues: checked, laid over the shipped one, cached by content, and HOME left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_catalog import CARD, FILES, changed, write

from mihack.catalog import layers
from mihack.catalog.index import load, load_shipped
from mihack.errors import MihackError

OURS = changed(CARD, ("  name: toys\n", "  name: algorithmic\n"),
               ("{task: sort, variable_length: true}", "{task: modular}"))  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MIHACK_CATALOG", raising=False)
    return folder


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write(tmp_path / "ours", {**FILES, "problems/demo/X-1-sort-two.md": OURS})


def test_a_folder_is_laid_over_the_shipped_catalogue(home: Path, ours: Path) -> None:
    index = load([ours])
    assert index.problem("x-1")["title"] == "Sort two numbers"
    assert index.problem("x-1")["sections"]["why"] == "It is small."
    assert set(load_shipped().problems) < set(index.problems)
    assert "demo" in index.areas
    assert index.starters == load_shipped().starters


def test_the_environment_names_folders_and_options_win(
    home: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**FILES, "problems/demo/X-1-sort-two.md": changed(OURS, ("Sort two", "Order two"))}
    monkeypatch.setenv("MIHACK_CATALOG", str(ours))
    assert load().problem("X-1")["title"] == "Sort two numbers"
    assert load([write(tmp_path / "b", other)]).problem("X-1")["title"] == "Order two numbers"


def test_without_cache_nothing_is_written_to_home(home: Path, ours: Path) -> None:
    load([ours])
    assert list(home.rglob("*")) == []


def test_cache_is_used_until_the_content_changes(
    home: Path, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load([ours], cache=True).problems
    rest, kept = sorted((home / ".cache" / "mihack").iterdir())
    assert list(json.loads(kept.read_text("utf-8"))["problems"]) == ["X-1"]
    assert list(json.loads(rest.read_text("utf-8"))["cards"]) == ["X-1"]
    with monkeypatch.context() as patch:
        patch.setattr(layers, "_in_memory", lambda *_: pytest.fail("the cache was not used"))
        assert load([ours], cache=True).problems == first
    write(ours, {"problems/demo/X-1-sort-two.md": changed(OURS, ("Sort two", "Order two"))})
    assert load([ours], cache=True).problem("X-1")["title"] == "Order two numbers"


def test_a_cached_folder_needs_no_parser(home: Path, ours: Path) -> None:
    load([ours], cache=True)
    code = (
        "import sys; from mihack.catalog.index import load;"
        f"load([{str(ours)!r}], cache=True).problem('X-1');"
        "print(*{'pydantic', 'yaml', 'markdown_it'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_an_unwritable_cache_is_no_reason_to_fail(
    home: Path, ours: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file where the cache folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load([ours], cache=True).problem("X-1")["id"] == "X-1"


@pytest.mark.parametrize("half", [0, 1])
def test_a_damaged_cache_is_built_anew(home: Path, ours: Path, half: int) -> None:
    load([ours], cache=True)
    sorted((home / ".cache" / "mihack").iterdir())[half].write_text("{")
    assert load([ours], cache=True).problem("X-1")["id"] == "X-1"


def test_old_cache_files_are_removed(home: Path, ours: Path) -> None:
    for number in range(layers.KEPT + 3):
        card = changed(OURS, ("Sort two numbers", f"Sort {number}"))
        write(ours, {"problems/demo/X-1-sort-two.md": card})
        load([ours], cache=True)
    assert len(list((home / ".cache" / "mihack").iterdir())) == 2 * layers.KEPT  # each in two halves


def test_faults_are_listed_with_the_command_that_lists_all(home: Path, ours: Path) -> None:
    write(ours, {"problems/demo/X-1-sort-two.md": changed(OURS, ("hours: [2, 6]", "hours: [6, 2]"))})
    with pytest.raises(MihackError) as caught:
        load([ours], cache=True)
    assert "X-1-sort-two.md:16: hours" in str(caught.value)
    assert f"mihack check {ours}" in (caught.value.hint or "")
    assert not (home / ".cache").exists()


def test_a_missing_folder_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(MihackError, match="nowhere"):
        load([tmp_path / "nowhere"])


def test_a_symlinked_card_is_not_cached_as_its_target(home: Path, ours: Path) -> None:
    secret = ours.parent / "secret.md"
    secret.write_text("private")
    (ours / "concepts" / "secret.md").symlink_to(secret)
    with pytest.raises(MihackError, match="symlink"):
        load([ours], cache=True)
