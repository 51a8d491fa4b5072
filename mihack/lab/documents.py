"""Text as a stream of documents, in a fixed order, never a whole file in memory (of JSON, a line).

    documents("corpus.txt")                  # one document, or several with form feeds between them
    documents("corpus.jsonl.gz")             # one on each line, in the field "text"
    documents("notes/")                      # every .txt .md .jsonl .jsonl.gz below, sorted by path
    documents("python-docs")                 # Python's own documentation; or the name of a shipped text
    documents("hub:roneneldan/TinyStories")  # streamed from the hub, by the package datasets

``data.token_rows`` makes token rows of them.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as kept
from pathlib import Path
from typing import Any

from .text import documentation

HERE = Path(__file__).resolve().parent
# Where shipped texts may lie: beside lab/ in a generated repo, in the package, in the current folder.
PLACES = (HERE.parent / "texts", HERE.parent / "zoo" / "texts", Path("texts"))
KINDS = (".txt", ".md", ".jsonl", ".jsonl.gz")
PIECE = 100_000  # characters that are tokenised at a time
BLOCK = 1 << 18  # bytes that are read at a time


class DataError(ValueError):
    """Text or token rows cannot be had; the message names file and line, or says what to do."""


@dataclass(frozen=True)
class Document:
    """A text and where it comes from."""

    name: str
    text: str = kept(repr=False)

    def pieces(self) -> Iterator[str]:
        """The text in pieces of at most 100,000 characters, cut after a line end where there is one."""
        return _cut(self.text[at : at + PIECE] for at in range(0, len(self.text), PIECE))


class Stretch(Document):
    """A document that is part of a file, from byte ``start`` to ``end``, read when it is asked for."""

    def __init__(self, name: str, path: Path, start: int, end: int) -> None:
        # a frozen dataclass refuses plain assignment, to its subclasses too
        self.__dict__.update(name=name, path=path, start=start, end=end)

    @property
    def text(self) -> str:
        """The whole text at once: ``pieces`` is for long ones."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """The text in pieces.  Raises DataError, with file and line, where it is not UTF-8."""
        return _cut(_decoded(self.__dict__["path"], self.__dict__["start"], self.__dict__["end"]))


@dataclass(frozen=True)
class Documents:
    """Documents that can be gone through again and again, in the same order."""

    read: Callable[[], Iterator[Document]]
    describe: Callable[[], str]

    def __iter__(self) -> Iterator[Document]:
        return self.read()


def documents(
    source: str | Path, *, field: str = "text", split: str = "train", config: str | None = None
) -> Documents:
    """The documents of a file, a folder, a shipped text, ``python-docs`` or ``hub:owner/name``.

    ``field`` holds the text in JSON lines and on the hub; ``split`` and ``config`` are for the hub.
    White space alone is no document.  In a folder symbolic links are not followed.  Raises DataError,
    at once if there is no such source, and while reading at a line that is not as it should be.
    """
    name = str(source)
    if name.startswith("hub:"):
        what = f"{name} config={config} split={split} field={field}"
        return Documents(lambda: _hub(name.removeprefix("hub:"), field, split, config), lambda: what)
    if name == "python-docs":
        return Documents(_python_docs, lambda: f"python-docs of Python {sys.version.split()[0]}")
    path = _find(source)
    files = list(_files(path)) if path.is_dir() else [path]
    if not files or not all(path.name.lower().endswith(KINDS) for path in files):
        what = "holds no" if path.is_dir() else "is not one of"
        raise DataError(f"{path} {what} {' '.join(KINDS)} (symbolic links in folders are not followed)")
    base = path if path.is_dir() else path.parent
    return Documents(
        lambda: (document for file in files for document in _file(file, base, field)),
        lambda: f"{path.name} field={field} sha256={_digest(files, base)}",
    )


def shipped() -> dict[str, Path]:
    """The texts that came with the repo or the package: name -> file."""
    found = {path.stem: path for place in reversed(PLACES) for path in place.glob("*.txt")}
    return dict(sorted(found.items()))


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.exists():
        return path
    here = shipped()
    if str(source) in here:
        return here[str(source)]
    names = ", ".join([*here, "python-docs"])
    raise DataError(
        f"{path} is not there.  Give a file or folder ({' '.join(KINDS)}), a text that is here ({names}), "
        "or hub:owner/name."
    )


def _files(folder: Path) -> Iterator[Path]:
    """Files of text below ``folder``, sorted by path; links are left alone, wherever they lead."""
    found = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    fitting = (path for path in found if path.name.lower().endswith(KINDS))
    plain = (path for path in fitting if path.is_file() and not path.is_symlink())
    return iter(sorted(plain, key=lambda path: path.relative_to(folder).parts))


def _file(path: Path, base: Path, field: str) -> Iterator[Document]:
    name = path.relative_to(base).as_posix()
    return _plain(path, name) if path.suffix.lower() in (".txt", ".md") else _lines(path, name, field)


def _digest(files: Iterable[Path], base: Path) -> str:
    """Hash of names and contents: cheap beside tokenising, and it survives a copy, as dates do not."""
    whole = hashlib.sha256()
    for path in files:
        one = hashlib.sha256()
        for block in _blocks(path):
            one.update(block)
        whole.update(f"{path.relative_to(base).as_posix()}\0{one.hexdigest()}\n".encode())
    return whole.hexdigest()


def _blocks(path: Path, start: int = 0, end: int = sys.maxsize) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (block := file.read(min(BLOCK, end - start))):
            start += len(block)
            yield block


def _plain(path: Path, name: str) -> Iterator[Document]:
    """The file as one document, or several if it holds form feeds; it is only searched here."""
    start = at = number = 0
    inked = False
    for block in _blocks(path):
        parts = block.split(b"\f")  # no other character of UTF-8 holds this byte
        for part in parts[:-1]:
            at += len(part)
            if inked or part.strip():
                number += 1
                yield Stretch(f"{name}#{number}", path, start, at)
            at += 1
            start, inked = at, False
        at += len(parts[-1])
        inked = inked or bool(parts[-1].strip())
    if inked:
        yield Stretch(f"{name}#{number + 1}" if start else name, path, start, at)


def _decoded(path: Path, start: int, end: int) -> Iterator[str]:
    """Text of a stretch of a file, its line ends all ``\\n``, without a byte order mark."""
    bytes_to_text = codecs.getincrementaldecoder("utf-8" if start else "utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(bytes_to_text, translate=True)
    at = start
    try:
        for block in _blocks(path, start, end):
            yield decoder.decode(block)
            at += len(block)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # the decoder may have kept a few bytes of the block before, but no line end among them
        line = 1 + sum(block.count(b"\n") for block in _blocks(path, 0, at))
        line += error.object[: error.start].count(b"\n")
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason}): save the file as UTF-8") from None


def _cut(chunks: Iterable[str]) -> Iterator[str]:
    """The same text in pieces whose bounds depend on the text alone, not on how it arrived."""
    held = ""
    for chunk in chunks:
        held += chunk
        while len(held) > PIECE:
            end = held.rfind("\n", 0, PIECE) + 1 or PIECE
            yield held[:end]
            held = held[end:]
    if held:
        yield held


def _lines(path: Path, name: str, field: str) -> Iterator[Document]:
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = _field(line, field, f"{path}:{number}") if line.strip() else ""
                if text.strip():
                    yield Document(f"{name}:{number}", text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: the compressed file is broken: {error}") from None


def _field(line: bytes, field: str, where: str) -> str:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a line of JSON: {error}") from None
    return _text(value, field, where)


def _text(value: Any, field: str, where: str) -> str:
    """The text in a record; DataError if it has none that a tokenizer could read."""
    if not isinstance(value, dict) or field not in value:
        there = ", ".join(map(str, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"{where}: no field {field!r}; there: {there or 'nothing'}")
    text = value[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} holds a {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: field {field!r} holds half a character: {error.reason}") from None
    return text


def _python_docs() -> Iterator[Document]:
    texts = enumerate(documentation(), start=1)
    return (Document(f"python-docs#{number}", text) for number, text in texts if text.strip())


def _hub(name: str, field: str, split: str, config: str | None) -> Iterator[Document]:
    """Rows of a data set as they come over the network; nothing is kept on disk."""
    from .models import _hub_reached

    if not _hub_reached():
        raise DataError(_not_here(name, "the hub cannot be reached from here"))
    try:
        from datasets import load_dataset  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise DataError(f"hub:{name} is read by the package datasets: pip install datasets") from None
    try:
        records = load_dataset(name, config, split=split, streaming=True)
        for number, record in enumerate(records, start=1):
            text = _text(record, field, f"hub:{name}:{number}")
            if text.strip():
                yield Document(f"hub:{name}:{number}", text)
    except DataError:
        raise
    except Exception as error:  # datasets passes on what its file systems and HTTP clients raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(_not_here(name, f"datasets says: {first}")) from error


def _not_here(name: str, why: str) -> str:
    here = ", ".join([*shipped(), "python-docs"])
    code = f"from datasets import load_dataset as d; d('{name}', split='train').to_json('data.jsonl')"
    return (
        f"hub:{name} cannot be read: {why}.\n"
        f"Either take a text that is here ({here}), or, where there is a network, run\n"
        f'    python -c "{code}"\n'
        'and give the file: documents("data.jsonl").'
    )
