"""Documents and token rows: nothing lost, nothing out of order, every token traced, nothing half written."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from mihack.lab import documents as sources  # noqa: E402
from mihack.lab.data import DataError, Document, Documents, Rows, documents, token_rows  # noqa: E402
from mihack.lab.scan import neurons, scan  # noqa: E402
from mihack.lab.text import WordTokenizer  # noqa: E402

steadily = settings(deadline=None, max_examples=60, derandomize=True)
WORDS = WordTokenizer(["the cat sat on the mat and the dog sat on the cat\n"] * 3, 110)
ZOO = Path(sources.__file__).parent.parent / "zoo" / "tokenizer.json"
plain = st.text(st.characters(codec="utf-8", exclude_characters="\f\r"), max_size=60)
inked = plain.filter(lambda text: bool(text.encode().strip()))


class Letters:
    """One token for each character, BOS 0: the least that token_rows asks of a tokenizer."""

    bos_token_id = 0

    def __init__(self, size: int = 128) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {chr(index): index for index in range(self.size)}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def fast() -> Any:
    """The byte-level BPE tokenizer of the embedded models."""
    read: Any = PreTrainedTokenizerFast
    return read(tokenizer_file=str(ZOO), bos_token="<|start|>")


@pytest.fixture(scope="module")
def manual() -> list[Document]:
    """Python's documentation, read once."""
    return list(documents("python-docs"))


def of(*texts: str) -> list[Document]:
    return [Document(str(number), text) for number, text in enumerate(texts)]


def texts_of(source: Path, **options: Any) -> list[str]:
    return [document.text for document in documents(source, **options)]


def regrouped(rows: Rows) -> dict[int, list[int]]:
    """Tokens of text by document, put where ``source`` says they belong."""
    found: dict[int, dict[int, int]] = {}
    for index in range(len(rows)):
        for position, token in enumerate(rows[index].tolist()):
            document, offset = rows.source(index, position)
            if token or rows.meta["bos"] is None:  # 0 is BOS: never a token of these texts
                assert offset not in found.setdefault(document, {})
                found[document][offset] = token
    return {document: [tokens[at] for at in range(len(tokens))] for document, tokens in found.items()}


class TestDocumentsOfOneFile:
    @steadily
    @given(st.lists(inked, min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 30))
    def test_form_feeds_part_them_however_the_file_is_read(
        self, texts: list[str], block: int, piece: int
    ) -> None:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "BLOCK", block)
            patch.setattr(sources, "PIECE", piece)
            path = Path(folder) / "a.txt"
            path.write_bytes("\f".join(texts).encode())
            found = list(documents(path))
            # a byte order mark that begins the file is not text
            wanted = [texts[0].removeprefix("\ufeff"), *texts[1:]]
            assert [document.text for document in found] == wanted
            for document, text in zip(found, wanted, strict=True):
                assert list(document.pieces()) == list(Document("", text).pieces())

    @steadily
    @given(st.text("ab\n", max_size=80), st.integers(1, 20))
    def test_pieces_are_the_text_cut_after_line_ends(self, text: str, piece: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "PIECE", piece)
            pieces = list(Document("", text).pieces())
        assert "".join(pieces) == text
        assert all(0 < len(one) <= piece for one in pieces)
        assert all(one.endswith("\n") or ("\n" not in one and len(one) == piece) for one in pieces[:-1])

    def test_windows_line_ends_and_byte_order_mark_are_read_away(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\f \r\n\fthree")
        found = list(documents(tmp_path / "a.txt"))
        assert [(one.name, one.text) for one in found] == [("a.txt#1", "one\ntwo\n"), ("a.txt#2", "three")]

    def test_text_that_is_not_utf8_is_named_by_file_and_line(self, tmp_path: Path) -> None:
        path = tmp_path / "latin.txt"
        path.write_bytes(b"one\n\ftwo\nthree\nna\xefve\n")
        with pytest.raises(DataError, match=rf"{path}:4: not UTF-8"):
            texts_of(path)
        path.write_bytes(b"one\ncut \xe2\x82")
        with pytest.raises(DataError, match=rf"{path}:2: not UTF-8"):
            texts_of(path)


class TestJsonLines:
    @steadily
    @given(st.lists(inked, max_size=5), st.booleans())
    def test_each_line_is_a_document(self, texts: list[str], packed: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("a.jsonl.gz" if packed else "a.jsonl")
            whole = "".join(json.dumps({"body": text}) + "\n\n" for text in texts).encode()
            path.write_bytes(gzip.compress(whole) if packed else whole)
            found = list(documents(path, field="body"))
            assert [one.text for one in found] == [text for text in texts if text.strip()]
            numbers = [1 + 2 * at for at, text in enumerate(texts) if text.strip()]
            assert [one.name for one in found] == [f"{path.name}:{number}" for number in numbers]

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            (b'{"text": "cut', "not a line of JSON"),
            (b"\xff", "not a line of JSON"),
            (b"[" * 200_000, "not a line of JSON"),
            (b'{"body": "x"}', "no field 'text'; there: body"),
            (b"[1]", "no field 'text'; there: a list"),
            (b'{"text": 3}', "holds a int"),
            (rb'{"text": "\ud800"}', "half a character"),
        ],
    )
    def test_a_bad_line_is_named_by_file_and_line(self, tmp_path: Path, line: bytes, says: str) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
        with pytest.raises(DataError, match=rf"^{path}:2: .*{says}"):
            texts_of(path)

    def test_a_broken_archive_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "fine"}\n' * 50)[:-9])
        with pytest.raises(DataError, match=rf"{path}:\d+: the compressed file is broken"):
            texts_of(path)


class TestFolders:
    def test_files_of_text_sorted_by_path_and_no_links(self, tmp_path: Path) -> None:
        outside, folder = tmp_path / "secret.txt", tmp_path / "in"
        outside.write_text("secret")
        for name in ("b.txt", "a/z.md", "a/b.jsonl", "B.txt", "c.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
        (folder / "link.txt").symlink_to(outside)
        (folder / "loop").symlink_to(folder)
        (folder / "up").symlink_to(tmp_path)
        names = [document.name for document in documents(folder)]
        assert names == ["B.txt", "a/b.jsonl:1", "a/z.md", "b.txt"]

    def test_a_folder_without_text_and_a_file_of_another_kind_are_errors(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no"):
            documents(tmp_path)
        (tmp_path / "a.csv").write_text("x")
        with pytest.raises(DataError, match=r"a\.csv is not one of \.txt"):
            documents(tmp_path / "a.csv")


class TestNamedSources:
    def test_shipped_texts_are_found_by_name_the_repo_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for place in ("one", "two"):
            (tmp_path / place).mkdir()
            (tmp_path / place / "tales.txt").write_text(place)
        monkeypatch.setattr(sources, "PLACES", (tmp_path / "one", tmp_path / "two"))
        assert [one.text for one in documents("tales")] == ["one"]
        with pytest.raises(DataError, match=r"talse is not there.*tales, python-docs"):
            documents("talse")

    def test_python_documentation_is_there_without_a_network(self, manual: list[Document]) -> None:
        assert sum(len(one.text) for one in manual) > 100_000
        assert manual[0].name == "python-docs#1"

    def test_the_hub_offline_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DataError, match="cannot be reached") as raised:
            next(iter(documents("hub:owner/name")))
        assert "python-docs" in str(raised.value)
        assert "d('owner/name', split='train').to_json('data.jsonl')" in str(raised.value)

    def test_the_hub_is_streamed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        def stream(*names: Any, **options: Any) -> Iterator[dict[str, str]]:
            asked.append((names, options))
            yield {"text": "one"}
            yield {"other": "two"}

        monkeypatch.setattr("mihack.lab.models._hub_reached", lambda: True)
        monkeypatch.setitem(sys.modules, "datasets", type("Fake", (), {"load_dataset": staticmethod(stream)}))
        found = iter(documents("hub:owner/name", split="test"))
        assert next(found) == Document("hub:owner/name:1", "one")
        assert asked == [(("owner/name", None), {"split": "test", "streaming": True})]
        with pytest.raises(DataError, match="hub:owner/name:2: no field 'text'; there: other"):
            next(found)

    def test_what_the_hub_raises_comes_with_advice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*names: Any, **options: Any) -> Any:
            raise RuntimeError("connection reset\nand much more")

        monkeypatch.setattr("mihack.lab.models._hub_reached", lambda: True)
        monkeypatch.setitem(sys.modules, "datasets", type("Fake", (), {"load_dataset": staticmethod(broken)}))
        with pytest.raises(DataError, match=r"datasets says: connection reset\.\nEither take"):
            next(iter(documents("hub:owner/name")))

    def test_the_hub_without_datasets_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mihack.lab.models._hub_reached", lambda: True)
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(DataError, match="pip install datasets"):
            next(iter(documents("hub:owner/name")))


short = st.lists(st.text("abcdefgh\n", max_size=25), min_size=1, max_size=8)


class TestWhatRowsHold:
    @steadily
    @given(short, st.integers(2, 9), st.booleans(), st.integers(1, 30))
    def test_packed_rows_are_the_documents_one_after_another(
        self, texts: list[str], width: int, bos: bool, piece: int
    ) -> None:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "PIECE", piece)
            whole = [ord(character) for text in texts for character in text]
            try:
                rows = token_rows(of(*texts), Letters(), Path(folder) / "r", width=width, bos=bos)
            except DataError:
                assert len(whole) < width
                assert list(Path(folder).iterdir()) == []
                return
            held = [token for row in rows[:].tolist() for token in row if token]
            assert held == whole[: len(held)]
            assert len(whole) - len(held) == rows.meta["dropped_tokens"] < width
            assert len(held) == rows.meta["tokens"]
            assert rows.meta["documents"] == len(texts)
            for number, tokens in regrouped(rows).items():
                assert tokens == [ord(c) for c in texts[number]][: len(tokens)]
            if bos:
                assert (rows[:][:, 0] == 0).all()

    @steadily
    @given(short, st.integers(2, 9), st.booleans())
    def test_rows_apart_hold_one_document_each(self, texts: list[str], width: int, bos: bool) -> None:
        room = width - bos
        wanted = {n: len(text) // room * room for n, text in enumerate(texts) if len(text) >= room}
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows = token_rows(of(*texts), Letters(), Path(folder) / "r", width=width, bos=bos, apart=True)
            except DataError:
                assert not wanted
                return
            found = regrouped(rows)
            assert {n: len(tokens) for n, tokens in found.items()} == wanted
            assert all(tokens == [ord(c) for c in texts[n][: wanted[n]]] for n, tokens in found.items())
            for row in range(len(rows)):
                assert len({rows.source(row, position)[0] for position in range(width)}) == 1
                assert not bos or rows[row].tolist().count(0) == 1
            assert rows.meta["dropped_tokens"] == sum(map(len, texts)) - sum(wanted.values())
            assert rows.meta["dropped_tails"] == sum(len(text) % room > 0 for text in texts)

    def test_each_document_and_each_row_begins_with_one_bos(self, tmp_path: Path) -> None:
        rows = token_rows(of("abc", "", "de", "fghijk"), Letters(), tmp_path / "r", width=4)
        assert [rows.text(row) for row in range(len(rows))] == ["\0abc", "\0de\0", "\0fgh", "\0ijk"]
        assert [rows.source(1, position) for position in range(4)] == [(2, 0), (2, 0), (2, 1), (3, 0)]
        assert [rows.source(3, position) for position in range(-4, 0)] == [(3, 3), (3, 3), (3, 4), (3, 5)]

    def test_tokens_are_those_of_a_byte_level_tokenizer(self, tmp_path: Path, manual: list[Document]) -> None:
        tokenizer = fast()
        texts = [document.text for document in manual[:6]]
        rows = token_rows(of(*texts), tokenizer, tmp_path / "r", width=64)
        found = regrouped(rows)
        for number, text in enumerate(texts):
            whole = tokenizer(text, add_special_tokens=False)["input_ids"]
            last = number == len(texts) - 1
            assert found[number] == (whole[: len(found[number])] if last else whole)
        assert rows.text(0).replace("<|start|>", "").strip() in texts[0]

    def test_the_word_tokenizer_is_taken_too(self, tmp_path: Path) -> None:
        rows = token_rows(of("the cat sat on the mat"), WORDS, tmp_path / "r", width=5)
        assert rows.text(0) == "<start>" + WORDS.decode(WORDS.encode("the cat sat on the mat")[:4])

    @pytest.mark.parametrize(("size", "bytes_each"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
    def test_a_token_takes_two_bytes_where_the_vocabulary_allows(
        self, tmp_path: Path, size: int, bytes_each: int
    ) -> None:
        rows = token_rows(of("abc" + chr(size - 1)), Letters(size), tmp_path / "r", width=4, bos=False)
        assert (tmp_path / "r" / "rows.bin").stat().st_size == 4 * bytes_each
        assert rows[0].tolist() == [97, 98, 99, size - 1]

    def test_a_token_beyond_the_vocabulary_is_an_error_not_another_token(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not fit"):
            token_rows(of("abc\U00010000"), Letters(), tmp_path / "r", width=2)
        assert list(tmp_path.iterdir()) == []

    def test_limit_stops_reading(self, tmp_path: Path) -> None:
        def endless() -> Iterator[Document]:
            while True:
                yield Document("", "abcdefg")

        rows = token_rows(endless(), Letters(), tmp_path / "r", width=4, limit=10)
        assert (len(rows), rows.meta["dropped_tokens"]) == (10, 0)


class TestReadingRows:
    @pytest.fixture
    def rows(self, tmp_path: Path) -> Rows:
        return token_rows(of(*["abcdefgh" * 9] * 4), Letters(), tmp_path / "r", width=8)

    def test_as_a_tensor(self, rows: Rows) -> None:
        whole = torch.stack(list(rows))
        assert (whole.dtype, tuple(whole.shape)) == (torch.int64, (len(rows), 8))
        for part in (slice(2, 7), slice(-3, None), slice(None, None, 5), slice(9, 9), [3, 0]):
            assert torch.equal(rows[part], whole[part])
        assert torch.equal(rows[-1], whole[-1])
        with pytest.raises(IndexError):
            rows[len(rows)]
        for row, position in ((len(rows), 0), (0, 8)):
            with pytest.raises(IndexError):
                rows.source(row, position)

    def test_a_batch_depends_on_step_and_seed_alone(self, rows: Rows) -> None:
        again = Rows.open(rows.folder)
        again.batch(3, 5, seed=1)
        assert torch.equal(rows.batch(7, 16, seed=1), again.batch(7, 16, seed=1))
        assert not torch.equal(rows.batch(7, 16, seed=1), rows.batch(8, 16, seed=1))
        assert not torch.equal(rows.batch(7, 16, seed=1), rows.batch(7, 16, seed=2))
        seen = {tuple(row) for step in range(40) for row in rows.batch(step, 16, seed=0).tolist()}
        assert seen == {tuple(row) for row in rows[:].tolist()}

    def test_a_scan_takes_them_as_it_takes_a_tensor(self, rows: Rows) -> None:
        from transformer_lens import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        config = TransformerBridgeConfig(
            n_layers=1, d_model=8, n_heads=2, d_head=4, d_vocab=128, n_ctx=8, act_fn="relu", seed=0
        )
        model = TransformerBridge.boot_native(config).eval()
        one, two = (scan(model, given, neurons(model), k=3) for given in (rows, rows[:]))
        for site in neurons(model):
            assert torch.equal(one.sites[site].place, two.sites[site].place)
        place = int(one.sites[neurons(model)[0]].place[0, 0])
        row, position = one.where(place)
        assert one.context(rows, place, 0, 0)[0].tolist() == [rows[row][position]]


class TestWhatIsThereAlready:
    def test_the_same_settings_open_it_without_reading_a_document(self, tmp_path: Path) -> None:
        def never() -> Iterator[Document]:
            raise AssertionError("read again")

        first = token_rows(
            Documents(lambda: iter(of("abcdef")), lambda: "x"), Letters(), tmp_path / "r", width=3
        )
        again = token_rows(Documents(never, lambda: "x"), Letters(), tmp_path / "r", width=3)
        assert torch.equal(first[:], again[:])
        assert again.text(0) == "\0ab"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"width": 4}, "width is 3 there and 4 here"),
            ({"bos": False}, "bos is 0 there and None here"),
            ({"apart": True}, "apart is False there and True here"),
            ({"limit": 1}, "limit is None there and 1 here"),
            ({"source": "y"}, "source is 'x' there and 'y' here"),
            ({"source": None}, "source is 'x' there and None here"),
            ({"tokenizer": Letters(200)}, "tokenizer is '[0-9a-f]+' there"),
        ],
    )
    def test_other_settings_are_an_error(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        asked: dict[str, Any] = {"tokenizer": Letters(), "width": 3, "source": "x"}
        token_rows(of("abcdef"), folder=tmp_path / "r", **asked)
        before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
        with pytest.raises(DataError, match=says):
            token_rows(of("abcdef"), folder=tmp_path / "r", **{**asked, **change})
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}

    def test_text_that_changed_is_another_source_and_a_copy_is_not(self, tmp_path: Path) -> None:
        text = tmp_path / "a.txt"
        text.write_text("abcdef")
        token_rows(documents(text), Letters(), tmp_path / "r", width=3)
        text.write_text("abcdef")
        os.utime(text, (1, 1))
        token_rows(documents(text), Letters(), tmp_path / "r", width=3)
        text.write_text("abcdeg")
        with pytest.raises(DataError, match="source is"):
            token_rows(documents(text), Letters(), tmp_path / "r", width=3)

    def test_documents_without_a_description_are_not_taken_for_the_same(self, tmp_path: Path) -> None:
        token_rows(of("abcdef"), Letters(), tmp_path / "r", width=3)
        with pytest.raises(DataError, match="source="):
            token_rows(of("ghijkl"), Letters(), tmp_path / "r", width=3)

    def test_a_folder_of_other_things_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        for folder in (tmp_path, tmp_path / "thesis.tex"):
            with pytest.raises(DataError, match="holds no token rows"):
                token_rows(of("abcdef"), Letters(), folder, width=3)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_damage_and_another_tokenizer_are_noticed(self, tmp_path: Path) -> None:
        token_rows(of("abcdef"), Letters(), tmp_path / "r", width=3)
        with pytest.raises(DataError, match="another tokenizer"):
            Rows.open(tmp_path / "r", Letters(200))
        with pytest.raises(DataError, match="with their tokenizer"):
            Rows.open(tmp_path / "r").text(0)
        path = tmp_path / "r" / "rows.bin"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"rows\.bin is damaged"):
            Rows.open(tmp_path / "r")

    def test_what_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        nameless = Letters()
        nameless.bos_token_id = None  # type: ignore[assignment]
        with pytest.raises(DataError, match="has no BOS"):
            token_rows(of("abcdef"), nameless, tmp_path / "r", width=3)
        with pytest.raises(DataError, match="at least 2"):
            token_rows(of("abcdef"), Letters(), tmp_path / "r", width=1)
        with pytest.raises(DataError, match=r"not one row of 9: the documents hold 6 tokens"):
            token_rows(of("abcdef"), Letters(), tmp_path / "r", width=9)
        assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from mihack.lab.data import Document, WordTokenizer, token_rows
def endless():
    yield Document("", "abcdefgh " * 400_000)
    print("under way", flush=True)
    sys.stdin.read()
token_rows(endless(), WordTokenizer(["abcdefgh"], 100), Path({folder!r}), width=8)
"""


class TestInterruptions:
    def test_an_error_half_way_leaves_nothing(self, tmp_path: Path) -> None:
        def failing() -> Iterator[Document]:
            yield Document("", "abcdefgh" * 100)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            token_rows(failing(), Letters(), tmp_path / "r", width=8)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
    def test_a_kill_half_way_leaves_no_rows_and_its_remains_go_later(self, tmp_path: Path) -> None:
        code = KILLED.format(folder=str(tmp_path / "r"))
        command = [sys.executable, "-c", code]
        root = Path(__file__).parent.parent
        with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"under way\n"
            run.kill()
        assert not (tmp_path / "r").exists()
        (left,) = tmp_path.iterdir()
        assert (left / "rows.bin").stat().st_size > 1_000_000
        token_rows(of("abcdef"), Letters(), tmp_path / "one", width=3)
        token_rows(of("abcdef"), Letters(), tmp_path / "r", width=3)
        assert left.exists()  # it might be of a run that goes on
        for path in (*left.iterdir(), left):
            os.utime(path, (1, 1))
        (tmp_path / "r").rename(tmp_path / "two")
        token_rows(of("abcdef"), Letters(), tmp_path / "r", width=3)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "r", "two"]


class TestMemory:
    @staticmethod
    def peak(work: Any) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "PIECE", 5_000)
        monkeypatch.setattr(sources, "BLOCK", 4_096)

    def test_twenty_times_the_documents_take_no_more(self, tmp_path: Path) -> None:
        def many(count: int) -> Iterator[Document]:
            return (Document(str(number), "abcd efg\n" * 200) for number in range(count))

        peaks = []
        for index, count in enumerate((20, 20, 400)):  # the first also pays for what is loaded once
            folder = tmp_path / str(index)
            peaks.append(self.peak(lambda n=count, f=folder: token_rows(many(n), Letters(), f, width=64)))
        assert peaks[2] < min(1.3 * peaks[1], 500_000), peaks

    @pytest.mark.parametrize("line", ["abcd efg\n", "abcd efg "])
    def test_nor_does_one_long_document(self, tmp_path: Path, line: str) -> None:
        peaks = []
        for index, count in enumerate((4_000, 4_000, 80_000)):
            path = tmp_path / f"{index}.txt"
            path.write_text(line * count)
            folder = tmp_path / str(index)
            peaks.append(self.peak(lambda p=path, f=folder: token_rows(documents(p), Letters(), f, width=64)))
        assert peaks[2] < min(1.3 * peaks[1], 500_000), peaks
