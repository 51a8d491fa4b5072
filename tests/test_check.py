"""`mihack check`: every fault at once, each with its file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_catalog import AREA, BASE, CARD, CONCEPT, FILES, WORKS, changed, write

from mihack.catalog.check import Catalog, check_layer, check_shipped
from mihack.commands.check import check_command as check


def named(catalog: Catalog) -> list[tuple[str, int, str]]:
    """(file, line, field) of each fault, files relative to the catalogue."""
    return [
        (Path(fault.file).relative_to(catalog.folder).as_posix(), fault.line, fault.field)
        for fault in catalog.faults
    ]


def messages(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    """The faults of the small catalogue with its problem card changed."""
    write(tmp_path, {**FILES, "problems/demo/X-1-sort-two.md": changed(CARD, *changes)})
    return [f"{f.line}: {f.field}: {f.message}" for f in check_layer(tmp_path, BASE).faults]


def test_small_catalogue_has_no_fault(tmp_path: Path) -> None:
    assert named(check_layer(write(tmp_path, FILES), BASE)) == []


MANY = changed(
    CARD,
    ("title: Sort two numbers\n", ""),
    ("difficulty: A\n", "difficulty: E\n"),
    ("starred: false\n", "starred: maybe\n"),
    ("reviewed: 2026-01-31", "reviewed: 2026-02-31"),
    ("work: someone-2020-sorting", "work: someone-2020-sortin"),
    ("hours: [2, 6]", "hours: [6, 2]"),
    ("compute: laptop", "compute: laptp"),
    ("concepts: [attention]", "concepts: [attention, atention]"),
    ("related: []", 'related: ["X-9"]\ncolour: blue'),
    ("variable_length: true", "variable_lenght: true"),
    ("url: https://example.org/post", "url: javascript:alert(1)"),
    ("## Why it matters\n\nIt is small.", "## Why it matters"),
    ("Go on.", "Go <b>on</b>."),
    ("## Prior work\n\nSomeone did two.", "## Earlier work\n\n[x](file:///etc/passwd)"),
)
ESTIMATED = changed(
    CARD,
    ('id: "X-1"', "id: 3.10"),
    ("difficulty_basis: posted", "difficulty_basis: estimated"),
    (
        "works:\n  - work: someone-2020-sorting\n    bearing: Settles the case of two numbers.\n",
        "works: []\n",
    ),
    ("area: demo", "area: other"),
    ("models: [a 1-layer transformer]", "models: [a, a]"),
    ("status: partly", "coding: high\nstatus: partly"),
)
BROKEN: dict[str, str | bytes] = {
    "areas/demo.md": changed(AREA, ("order: 1", 'order: "1"'), ("## Where to start\n", "")),
    "concepts/attention.md": CONCEPT,
    "concepts/focus.md": changed(
        CONCEPT, ("term: Attention", "term: attending"), ("[attending]", "&a [gaze]")
    ),
    "problems/demo/X-1-sort-two.md": MANY,
    "problems/demo/X-2-estimated.md": ESTIMATED,
    "problems/demo/X-3-yaml.md": changed(CARD, ("tags: [sorting]", "tags: [sorting")),
    "problems/demo/X-4-bytes.md": CARD.encode().replace(b"Begin.", b"Begin\xff."),
    "problems/demo/X-5-twin.md": CARD,
    "problems/demo/X-6-open.md": "---\nid: X-6\n",
    "problems/demo/note.txt": "not a card",
    "resources.yml": "",
    "resources.yaml": FILES["resources.yaml"],
    "works.yaml": changed(WORKS, ('  arxiv: "2001.00001"\n', "")) + "CON:\n  year: 2020\n",
}


def test_every_fault_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, BROKEN)
    (tmp_path / "concepts" / "linked.md").symlink_to(tmp_path / "concepts" / "attention.md")
    first, second = "problems/demo/X-1-sort-two.md", "problems/demo/X-2-estimated.md"
    assert named(check_layer(tmp_path, BASE)) == [
        ("areas/demo.md", 4, "order"),
        ("areas/demo.md", 21, "Where to start"),
        ("concepts/focus.md", 2, "term"),
        ("concepts/focus.md", 3, "aliases"),
        ("concepts/linked.md", 1, "file"),
        (first, 2, "title"),
        (first, 6, "difficulty"),
        (first, 8, "starred"),
        (first, 10, "reviewed"),
        (first, 12, "works[0].work"),
        (first, 15, "hours"),
        (first, 16, "compute"),
        (first, 18, "concepts[1]"),
        (first, 21, "related[0]"),
        (first, 22, "colour"),
        (first, 26, "starter.parameters.variable_lenght"),
        (first, 29, "sources[0].url"),
        (first, 36, "Why it matters"),
        (first, 44, "body"),
        (first, 44, "body"),
        (first, 46, "Earlier work"),
        (first, 46, "Prior work"),
        (first, 48, "body"),
        (second, 2, "difficulty_reason"),
        (second, 2, "id"),
        (second, 5, "area"),
        (second, 5, "area"),
        (second, 13, "works"),
        (second, 17, "coding"),
        (second, 19, "models"),
        ("problems/demo/X-3-yaml.md", 23, "YAML"),
        ("problems/demo/X-4-bytes.md", 42, "file"),
        ("problems/demo/X-5-twin.md", 1, "file"),
        ("problems/demo/X-5-twin.md", 2, "id"),
        ("problems/demo/X-6-open.md", 1, "front matter"),
        ("problems/demo/note.txt", 1, "file"),
        ("resources.yml", 1, "file"),
        ("works.yaml", 1, "someone-2020-sorting"),
        ("works.yaml", 6, "CON.authors"),
        ("works.yaml", 6, "CON.confirmed"),
        ("works.yaml", 6, "CON.title"),
        ("works.yaml", 6, "name"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("compute: laptop", "compute: laptp", "did you mean laptop?"),
        ("concepts: [attention]", "concepts: [atention]", "did you mean attention?"),
        ("coding: low", "codin: low", "did you mean coding?"),
        ("task: sort", "task: srt", "did you mean sort?"),
        ("task: sort", "length: 3", "task is missing; it chooses the experiment: sort"),
        ("name: toys", "name: toy", "did you mean toys?"),
        ("variable_length: true", "variable_length: 1", "it must be true or false"),
        ("variable_length: true", "length: 1", "it must be at least 2"),
        ("variable_length: true", "length: 2.5", "it must be a whole number"),
        ("variable_length: true", "order: sideways", "it must be one of up, down"),
        ('id: "X-1"', "id: 3.10", '3.10 is not text to YAML; put it in quotes: "3.10"'),
        ('id: "X-1"', "id: nul.1", "device name on Windows"),
        ('id: "X-1"', 'id: "../1"', "is not an id"),
        ("difficulty: A", "difficulty: C-B", "the easier letter comes first"),
        ("related: []", 'related: ["X-1"]', "names the card itself"),
        ("tags: [sorting]", "tags: [Sorting]", "is not a slug"),
        ("tags: [sorting]", "tags: [sorting, sorting]", "twice"),
        ("https://example.org/post", "https://", "is not a full http:// or https:// address"),
        ("https://example.org/post", "https://a@b.org/", "carries a user name"),
        ("https://example.org/post", "'https://[/'", "is not an address"),
        ("title: Sort two numbers", r'title: "a\b"', "control character (U+0008)"),
        ("title: Sort two numbers", 'title: "a\\nb"', "one plain line"),
        ("title: Sort two numbers", "title: " + "x" * 301, "at most 300 characters"),
        ("reviewed: 2026-01-31", "reviewed: 31.1.2026", "not a date of the form YYYY-MM-DD"),
        ("remains: Three numbers.", "remains: Three\x07 numbers.", "control character U+0007"),
        ("Begin.", "Begin\x1b[31m.", "control character U+001B"),
        ("starred: false", "starred: no", "is 'no'; input should be a valid boolean"),
        ("hours: [2, 6]", "hours: [2]", "at least 2 items"),
        ("hours: [2, 6]", "hours: [0, 6]", "greater than 0"),
    ],
)
def test_message_says_what_would_be_right(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert any(expected in message for message in messages(tmp_path, (old, new)))


@pytest.mark.parametrize(
    "title",
    [
        "{{ 7*7 }}",
        'say "hi"',
        "a\\b",
        "x" * 300,
        "🧠 and 🐍",
        "مرحبا \u202eabc",
        "{% raw %}",
        "$(id)",
    ],
)
def test_hostile_titles_are_legitimate_text(tmp_path: Path, title: str) -> None:
    quoted = "title: '" + title.replace("'", "''") + "'"
    assert messages(tmp_path, ("title: Sort two numbers", quoted)) == []


def test_references_may_name_what_a_broken_card_describes(tmp_path: Path) -> None:
    broken = {
        "concepts/attention.md": "---\nterm: [\n---\n",
        "problems/demo/X-2-broken.md": "no front matter",
    }
    related = changed(CARD, ("related: []", 'related: ["X-2"]'))
    write(tmp_path, {**FILES, **broken, "problems/demo/X-1-sort-two.md": related})
    assert {file for file, _, _ in named(check_layer(tmp_path, BASE))} == set(broken)


def test_references_may_name_what_the_base_has(tmp_path: Path) -> None:
    write(tmp_path, {"problems/demo/X-1-sort-two.md": CARD})
    assert len(check_layer(tmp_path, BASE).faults) == 4  # area, concept, resource, work
    base = {
        **BASE,
        "areas": {"demo": {}},
        "concepts": {"attention": {}},
        "resources": {"a-demo": {}},
        "works": {"someone-2020-sorting": {}},
    }
    assert check_layer(tmp_path, base).faults == []


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", FILES)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "problems").symlink_to(outside / "problems")
    (inside / "works.yaml").symlink_to(outside / "works.yaml")
    catalog = check_layer(inside, BASE)
    assert named(catalog) == [("problems", 1, "file"), ("works.yaml", 1, "file")]
    assert all("symlink" in fault.message for fault in catalog.faults)
    assert not any(catalog.entries.values())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_a_fault_and_does_not_block(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    os.mkfifo(tmp_path / "concepts" / "pipe.md")
    assert named(check_layer(tmp_path, BASE)) == [("concepts/pipe.md", 1, "file")]


def test_an_empty_folder_is_no_catalogue(tmp_path: Path) -> None:
    assert "is no catalogue" in check_layer(tmp_path, BASE).faults[0].message


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "concepts/attention.md": CONCEPT + "x" * 70000})
    assert named(check_layer(tmp_path, BASE)) == [("concepts/attention.md", 1, "file")]


def test_a_hostile_file_name_is_shown_harmlessly(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "concepts/a\x1b[31m\n.md": CONCEPT})
    shown = [str(fault) for fault in check_layer(tmp_path, BASE).faults]
    assert shown
    assert all(line.isprintable() for line in shown)


def test_a_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "concepts") + b"/\xff.md")).write_text(CONCEPT)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    for arguments in ([str(tmp_path)], [str(tmp_path), "--json"]):
        assert "udcff" in CliRunner().invoke(check, arguments).stdout


def test_an_id_like_a_shipped_one_in_other_case(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    faults = check_layer(tmp_path, {**BASE, "problems": {"x-1": {}}}).faults
    assert [(fault.line, fault.field) for fault in faults] == [(2, "id")]
    assert "only in case" in faults[0].message


def test_a_concept_has_a_free_body(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "concepts/attention.md": CONCEPT + "\nText.\n\n## Any heading\n\nx\n"})
    assert check_layer(tmp_path, BASE).faults == []
    write(tmp_path, {"concepts/attention.md": CONCEPT + "\nText <b>.\n"})
    assert named(check_layer(tmp_path, BASE)) == [("concepts/attention.md", 10, "body")]


def test_command_prints_faults_and_exits_with_1(tmp_path: Path) -> None:
    write(tmp_path, BROKEN)
    result = CliRunner().invoke(check, [str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path}/problems/demo/X-1-sort-two.md:6: difficulty: 'E' is not" in result.stdout
    listed = json.loads(CliRunner().invoke(check, [str(tmp_path), "--json"]).stdout)
    assert len(listed) == len(result.stdout.splitlines()) >= 20
    assert set(listed[0]) == {"file", "line", "field", "message"}


def test_shipped_catalogue_has_no_fault() -> None:
    catalog = check_shipped()
    assert [str(fault) for fault in catalog.faults] == []
    areas = [entry.model.area for entry in catalog.entries["problems"].values()]
    assert areas.count("algorithmic-problems") == 33
    assert areas.count("toy-language-models") == 23
    assert areas.count("circuits-in-the-wild") == 38
    assert areas.count("superposition") == 45
    assert areas.count("training-dynamics") == 38
    assert areas.count("image-models") == 18
    assert areas.count("reinforcement-learning") == 22
    assert areas.count("learned-features") == 63
