"""Token rows on disk with a fixed order and known sources, in constant memory whatever the size.

    rows = token_rows(documents("corpus.txt"), model.tokenizer, Path("data/corpus"), width=128)
    found = scan(model, rows, neurons(model))           # rows[a:b] is a tensor [row, position]
    rows.source(7, 20)                                  # (document number, token offset in it)
    rows.batch(step, 32, seed=0)                        # the same rows wherever a training resumes

Called again with the same settings it opens what is there.  A folder holds ``rows.bin`` (uint16, or
uint32 for a vocabulary beyond it, [row, position]), ``source.bin`` (int64 [row, 2]: document, offset of the
row's first token of text), ``starts.bin`` (int64 [begun document, 2]: place in rows.bin, document) and
``meta.json``; little-endian.
"""

from __future__ import annotations

import bisect
import contextlib
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .documents import DataError, Document, Documents, documents
from .packing import Packer, fill
from .text import WordTokenizer

__all__ = ["DataError", "Document", "Documents", "Rows", "documents", "token_rows"]
STALE = 24 * 3600  # seconds after which what a killed run left behind is cleared away


def token_rows(
    documents: Iterable[Document],
    tokenizer: Any,
    folder: Path,
    *,
    width: int,
    bos: bool = True,
    apart: bool = False,
    limit: int | None = None,
    source: str | None = None,
) -> Rows:
    """Write rows of ``width`` tokens into ``folder``, or open them if they are there already.

    Documents follow one another in the rows; with ``bos`` each of them, and each row, begins with BOS
    (one, where both begin at once).  ``apart``: no row holds two documents, and what a document leaves
    over at its end, less than a row, is dropped and counted.  ``limit``: so many rows at most.
    ``tokenizer``: transformers' interface, or WordTokenizer.  ``source`` describes documents of your own,
    so that rows made from them can be told apart; ``lab.documents`` knows what its are.

    A document of more than 100,000 characters is tokenised in pieces cut after a line end: a token that
    would reach across such a cut becomes two, and a tokenizer that puts a space before a text puts one there.

    The folder appears complete or not at all.  Raises DataError if it holds rows of other settings, if
    there is not one row, or if the tokenizer has no BOS.
    """
    start = _bos(tokenizer) if bos else None
    if width < 1 + bos or (limit is not None and limit < 1):
        raise DataError(f"width must be at least {1 + bos} and limit at least 1: {width}, {limit}")
    settings = {
        "width": width,
        "bos": start,
        "apart": apart,
        "limit": limit,
        "dtype": "<u2" if len(tokenizer) <= 1 << 16 else "<u4",
        "tokenizer": fingerprint(tokenizer),
        "source": documents.describe() if isinstance(documents, Documents) else source,
    }
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        return _reused(folder, tokenizer, settings)
    with _appearing(folder) as partial, contextlib.ExitStack() as files:
        writer = Packer(partial, settings, files)
        counts = fill(writer, documents, _encoder(tokenizer))
        files.close()
        if not writer.rows:
            raise DataError(f"not one row of {width}: the documents hold {writer.dropped} tokens")
        (partial / "meta.json").write_text(json.dumps({**settings, **counts}, indent=1), encoding="utf-8")
    return Rows(folder, tokenizer)


class Rows:
    """Token rows on disk: ``len``, ``rows[i]`` and ``rows[a:b]`` as with a tensor [row, position]."""

    def __init__(self, folder: Path, tokenizer: Any = None) -> None:
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        try:
            self.meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            self.width, count = int(self.meta["width"]), int(self.meta["rows"])
            self._bos = int(self.meta["bos"] is not None)
            if tokenizer is not None and fingerprint(tokenizer) != self.meta["tokenizer"]:
                raise DataError(f"{folder}: the rows were made with another tokenizer")
            self._rows = self._map("rows.bin", self.meta["dtype"], (count, self.width))
            self._source = self._map("source.bin", "<i8", (count, 2))
            self._starts = self._map("starts.bin", "<i8", (int(self.meta["starts"]), 2))
        except DataError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} holds no token rows: {error!r}; name another folder") from None

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Any = None) -> Rows:
        """Rows that ``token_rows`` wrote; ``tokenizer`` for ``text``.  Raises DataError."""
        return cls(Path(folder), tokenizer)

    def _map(self, name: str, dtype: str, shape: tuple[int, int]) -> Any:
        path = self.folder / name
        size = shape[0] * shape[1] * np.dtype(dtype).itemsize
        if path.stat().st_size != size:
            raise DataError(f"{path} is damaged: {path.stat().st_size} bytes, not {size}; delete the folder")
        return np.memmap(path, dtype=np.dtype(dtype), mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: int | slice | Sequence[int]) -> Int[Tensor, "*row position"]:
        """Tokens of one row [position], or of several [row, position]; int64, a copy."""
        return torch.from_numpy(np.asarray(self._rows[which]).astype(np.int64))

    def source(self, row: int, position: int) -> tuple[int, int]:
        """The document number, from 0 in reading order, and the token offset in that document.

        A BOS has the offset of the token after it.  Raises IndexError.
        """
        row, position = range(len(self))[row], range(self.width)[position]
        first = row * self.width
        begun = bisect.bisect_right(self._starts[:, 0], first + position) - 1
        place, document = map(int, self._starts[begun])
        if place >= first:
            return document, max(first + position - place - self._bos, 0)
        return document, int(self._source[row, 1]) + max(position - self._bos, 0)

    def text(self, row: int) -> str:
        """The row decoded, BOS included.  Raises DataError if it was opened without a tokenizer."""
        if self.tokenizer is None:
            raise DataError("open the rows with their tokenizer to read text: Rows.open(folder, tokenizer)")
        return str(self.tokenizer.decode(self[row].tolist()))

    def batch(self, step: int, size: int, seed: int) -> Int[Tensor, "row position"]:
        """Random rows, drawn with repetition: a function of ``step`` and ``seed`` (both from 0) alone."""
        return self[np.random.default_rng([seed, step]).integers(len(self), size=size)]  # type: ignore[index]


def fingerprint(tokenizer: Any) -> str:
    """Hash of a tokenizer's vocabulary."""
    if isinstance(tokenizer, WordTokenizer):
        vocabulary = {text: index for index, text in enumerate(tokenizer.vocabulary)}
    else:
        vocabulary = tokenizer.get_vocab()
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def _bos(tokenizer: Any) -> int:
    found = tokenizer.start if isinstance(tokenizer, WordTokenizer) else tokenizer.bos_token_id
    if found is None:
        raise DataError("the tokenizer has no BOS: set tokenizer.bos_token, or pass bos=False")
    return int(found)


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    if isinstance(tokenizer, WordTokenizer):
        return tokenizer.encode
    # transformers warns of texts longer than the model's context; rows are cut to fit it
    quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}
    return lambda text: list(tokenizer(text, add_special_tokens=False, **quiet)["input_ids"])


def _reused(folder: Path, tokenizer: Any, settings: dict[str, Any]) -> Rows:
    rows = Rows(folder)
    other = [
        f"{key} is {rows.meta.get(key)!r} there and {value!r} here"
        for key, value in settings.items()
        if rows.meta.get(key) != value
    ]
    if other:
        raise DataError(f"{folder} holds rows of other settings: {'; '.join(other)}.  Name another folder.")
    if settings["source"] is None:
        raise DataError(f"{folder} may hold rows of other documents: say which they are with source=...")
    return Rows(folder, tokenizer)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into, that takes its name at the end or vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f"{glob.escape(folder.name)}.partial-*"):
        newest = max((path.stat().st_mtime for path in (old, *old.glob("*"))), default=0)
        if time.time() - newest > STALE:
            shutil.rmtree(old, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}-{time.time_ns()}")
    partial.mkdir()
    try:
        yield partial
        try:
            if folder.exists():
                folder.rmdir()  # an empty folder would stop the renaming on Windows
            os.replace(partial, folder)  # noqa: PTH105
        except OSError as error:
            raise DataError(f"{folder} cannot be written, or another run just did: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
