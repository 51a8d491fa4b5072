"""We render in memory; cookiecutter renders to disk. For harmless text the bytes are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from baking import bake, index, problem, tiny  # noqa: F401
from cookiecutter.generate import generate_files

from mihack import shipped
from mihack.errors import MihackError
from mihack.scaffold import engine, values
from mihack.scaffold.experiment import choose
from mihack.scaffold.paths import confined, name_fault, slug
from mihack.scaffold.plan import Answers, default_folder

TEMPLATE = shipped.templates_dir() / "project"


def context() -> dict[str, str]:
    card = problem()
    catalog = index(card)
    experiment = choose(card, catalog, {})
    return values.context(card, experiment, catalog, "9-1-count-to-ten", Answers(author="Ada"))


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_bytes_are_those_of_cookiecutter(tmp_path: Path) -> None:
    whole = {"cookiecutter": context()}
    made = generate_files(TEMPLATE, context=whole, output_dir=tmp_path, accept_hooks=False)
    ours = engine.render(TEMPLATE, context())
    assert ours == tree(Path(made))
    assert {"README.md", "pyproject.toml", ".github/workflows/ci.yml"} <= set(ours)


def test_the_template_is_a_genuine_cookiecutter_template() -> None:
    """Its cookiecutter.json declares exactly the variables that we fill in."""
    declared = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    assert set(declared) == set(context())


def test_nothing_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    before = tree(TEMPLATE.parent)
    bake()
    assert sorted(tmp_path.rglob("*")) == [home]
    assert tree(TEMPLATE.parent) == before


def template(tmp_path: Path, name: str = "a.txt", text: str = "hello") -> Path:
    root = tmp_path / "template" / engine.ROOT
    root.mkdir(parents=True)
    (root / name).write_text(text, encoding="utf-8")
    return root.parent


def test_a_symlink_in_a_template_is_refused(tmp_path: Path) -> None:
    folder = template(tmp_path)
    (folder / engine.ROOT / "link").symlink_to("/etc/hostname")
    with pytest.raises(MihackError, match="symlink"):
        engine.render(folder, {})


@pytest.mark.parametrize("value", ["..", "../../out", "/etc/x", "C:x", "nul", "a\\b", "", "x."])
def test_a_file_name_cannot_leave_the_repo(tmp_path: Path, value: str) -> None:
    folder = template(tmp_path, "{{ cookiecutter.where }}")
    with pytest.raises(MihackError, match="refused"):
        engine.render(folder, {"where": value})


def test_values_are_not_rendered_and_extensions_not_loaded(tmp_path: Path) -> None:
    folder = template(tmp_path, text="{{ cookiecutter.x }}")
    given = {"x": "{{ 7*7 }}", "_extensions": ["does.not.Exist"]}
    assert engine.render(folder, given) == {"a.txt": b"{{ 7*7 }}"}


def test_an_undefined_variable_stops_the_plan(tmp_path: Path) -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        engine.render(template(tmp_path, text="{{ cookiecutter.missing }}"), {})


@pytest.mark.parametrize(
    "name",
    ["CON", "con.txt", "Aux", "lpt1.md", "COM¹", "a:b", "a?", "a ", "a.", "", "..", "x" * 256, "a\n"],
)
def test_names_that_some_system_refuses(name: str) -> None:
    assert name_fault(name)


@pytest.mark.parametrize("name", ["console", "a.b", ".gitignore", "ü", "a b", "lpt", "é" * 127])
def test_names_that_all_systems_take(name: str) -> None:
    assert name_fault(name) == ""
    assert confined(f"a/{name}") == f"a/{name}"


def test_project_names_are_plain_whatever_the_text() -> None:
    assert slug("3.1 Sort Lists!") == "3-1-sort-lists"
    assert slug("{{ 7*7 }}") == "7-7"
    assert slug("日本") == "mihack-project"
    assert slug("con") == "mihack-project"
    assert slug("x" * 300) == "x" * 60


def test_the_default_folder_is_the_card_s_name() -> None:
    assert default_folder(problem()) == "9.1-count-to-ten"
    assert "/" not in default_folder(problem(file="../../../evil.md"))
    assert default_folder(problem(file="")) == "problem-9-1"


def test_a_starter_cannot_be_a_path() -> None:
    card = problem(starter={"name": "tiny", "parameters": {"task": "../../../etc/passwd"}})
    catalog = index(card)
    catalog.starters["tiny"]["experiments"]["../../../etc/passwd"] = {}
    with pytest.raises(MihackError, match="no experiment"):
        choose(card, catalog, {})
