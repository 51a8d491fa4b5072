"""Tokens of documents packed into rows of one width, one row in memory at a time.

``data.token_rows`` is what to call; this is the loop behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .documents import DataError, Document


class Packer:
    """Packs tokens into one row at a time; the starts in a row are written with it, or dropped with it."""

    def __init__(self, folder: Path, settings: dict[str, Any], files: contextlib.ExitStack) -> None:
        names = ("rows.bin", "source.bin", "starts.bin")
        self._files = [files.enter_context((folder / name).open("wb")) for name in names]
        self.width, self.bos, self.apart = settings["width"], settings["bos"], settings["apart"]
        self.limit = settings["limit"]
        self.row = np.zeros(self.width, dtype=settings["dtype"])
        self.filled = self.text = 0  # tokens in the row, and those of them that are text
        self.first = (0, 0)
        self.pending: list[tuple[int, int]] = []
        self.rows = self.tokens = self.begun = self.tails = self.dropped = 0
        self.document, self.offset = 0, 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.rows >= self.limit

    def begin(self, document: int) -> None:
        """The next tokens are of this document; nothing is written if there are none."""
        self.document, self.offset = document, 0

    def add(self, ids: Sequence[int]) -> None:
        """Append tokens of the document, writing every row that fills up."""
        tokens = np.asarray(ids, dtype=np.int64)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() <= np.iinfo(self.row.dtype).max:
            raise DataError(f"a token id does not fit {self.row.dtype}: len(tokenizer) is too small")
        if len(tokens) and self.offset == 0:
            self._start()
        at = 0
        while at < len(tokens) and not self.full:
            if self.filled == 0:
                self._open()
            took = min(self.width - self.filled, len(tokens) - at)
            self.row[self.filled : self.filled + took] = tokens[at : at + took]
            at, self.offset, self.text = at + took, self.offset + took, self.text + took
            self._advance(took)

    def _start(self) -> None:
        if self.apart:
            self.drop_tail()
        self.pending.append((self.rows * self.width + self.filled, self.document))
        if self.bos is not None and self.filled:  # at the beginning of a row _open puts one
            self.row[self.filled] = self.bos
            self._advance(1)

    def _open(self) -> None:
        self.first = (self.document, self.offset)
        if self.bos is not None:
            self.row[0] = self.bos
            self.filled = 1

    def _advance(self, count: int) -> None:
        self.filled += count
        if self.filled < self.width:
            return
        rows, source, starts = self._files
        rows.write(self.row.tobytes())
        source.write(np.array(self.first, dtype="<i8").tobytes())
        starts.write(np.array(self.pending, dtype="<i8").tobytes())
        self.rows += 1
        self.tokens += self.text
        self.begun += len(self.pending)
        self._clear()

    def drop_tail(self) -> None:
        """Leave out the row that is not full."""
        self.tails += self.text > 0
        self.dropped += self.text
        self._clear()

    def _clear(self) -> None:
        self.filled = self.text = 0
        self.pending = []


def fill(writer: Packer, documents: Iterable[Document], encode: Callable[[str], list[int]]) -> dict[str, int]:
    """Write all documents; what was written and left out, in tokens of text (BOS not counted)."""
    count = 0
    for number, document in enumerate(documents):
        writer.begin(number)
        count += 1
        for piece in document.pieces():
            writer.add(encode(piece))
            if writer.full:
                break
        if writer.full:
            break
    writer.drop_tail()
    return {
        "rows": writer.rows,
        "documents": count,
        "tokens": writer.tokens,
        "starts": writer.begun,
        "dropped_tails": writer.tails,
        "dropped_tokens": writer.dropped,
    }
