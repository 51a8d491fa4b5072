"""A small language-model corpus from text that ships with Python, and a tokenizer for it.

No download: the documentation topics of ``pydoc`` and the docstrings of the standard library, some
two megabytes of technical English mixed with code (PSF licence).  The text grows a little from one
Python version to the next, so losses move in the second decimal between versions.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

# a word, a digit, or a run of one sign, each with its leading space; or a run of white space
PIECE = re.compile(r" ?[A-Za-z]+| ?\d| ?([^\sA-Za-z\d])\1*|\n+| +|.", re.DOTALL)


def pieces(text: str) -> list[str]:
    """Split ``text`` so that the pieces joined give it back."""
    return [match.group() for match in PIECE.finditer(text)]


def documentation() -> list[str]:
    """Python's own documentation as a list of documents, in a fixed order."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.glob("*.py")):
        texts.extend(docstrings(path.read_text(encoding="utf-8", errors="replace")))
    # plain ASCII keeps the character fallback of the tokenizer small
    return [text.encode("ascii", "ignore").decode() for text in texts]


def docstrings(source: str) -> list[str]:
    """Docstrings of 80 characters or more in a Python source; none if it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text and len(text) >= 80]


class WordTokenizer:
    """The most frequent words as single tokens; any other word is spelled in characters.

    So a frequent word is one token and a rare one several, as in a real model's vocabulary.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        characters = [chr(code) for code in range(32, 127)] + ["\n"]
        counts = Counter(piece for text in texts for piece in pieces(text) if len(piece) > 1)
        # ties broken by the text itself, so that the vocabulary does not depend on hash order
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, _ in ranked[: size - len(characters) - 1]]
        self.vocabulary: list[str] = ["<start>", *characters, *words]
        self._id = {text: index for index, text in enumerate(self.vocabulary)}

    @property
    def start(self) -> int:
        """The token that begins every document."""
        return 0

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; characters outside ASCII are dropped."""
        ids: list[int] = []
        for piece in pieces(text):
            if piece in self._id:
                ids.append(self._id[piece])
            else:
                ids.extend(self._id[character] for character in piece if character in self._id)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids."""
        return "".join(self.vocabulary[int(index)] for index in ids)

    def token(self, index: int) -> str:
        """One token as it should be shown: white space visible."""
        return self.vocabulary[int(index)].replace("\n", "↵").replace(" ", "·")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Several tokens as they should be shown."""
        return [self.token(index) for index in ids]


@dataclass
class Corpus:
    """Token streams for training and validation; whole documents are in one or the other."""

    tokenizer: WordTokenizer
    train: Int[Tensor, "token"]
    validation: Int[Tensor, "token"]

    def batch(self, rows: int, length: int, generator: torch.Generator) -> Int[Tensor, "row position"]:
        """Random training windows of ``length`` tokens; the first is replaced by <start>."""
        starts = torch.randint(len(self.train) - length, (rows,), generator=generator)
        windows = self.train[starts[:, None] + torch.arange(length)]
        windows[:, 0] = self.tokenizer.start
        return windows

    def held_out(self, rows: int, length: int) -> Int[Tensor, "row position"]:
        """The first ``rows`` validation windows, end to end, always the same."""
        rows = min(rows, len(self.validation) // length)
        windows = self.validation[: rows * length].view(rows, length).clone()
        windows[:, 0] = self.tokenizer.start
        return windows


def load_corpus(texts: Sequence[str], vocabulary: int, held_out: int = 10) -> Corpus:
    """Tokenize ``texts``; every ``held_out``-th document is for validation."""
    tokenizer = WordTokenizer(texts, vocabulary)
    streams: tuple[list[int], list[int]] = ([], [])
    for index, text in enumerate(texts):
        streams[index % held_out == 0].extend([tokenizer.start, *tokenizer.encode(text)])
    train, validation = (torch.tensor(stream) for stream in streams)
    return Corpus(tokenizer, train, validation)


def bigram_log_probs(tokens: Int[Tensor, "token"], vocabulary: int) -> Float[Tensor, "token next"]:
    """Log-probabilities of the next token given the current one, counted, backed off to unigrams.

    The table that a zero-layer transformer can represent at best: the baseline for any language
    model (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).
    """
    counts = torch.zeros(vocabulary, vocabulary)
    counts.index_put_((tokens[:-1], tokens[1:]), torch.ones(len(tokens) - 1), accumulate=True)
    unigram = (counts.sum(0) + 1) / (counts.sum() + vocabulary)
    # one pseudo-count spread as the unigram: unseen pairs keep a finite loss
    return ((counts + unigram) / (counts.sum(1, keepdim=True) + 1)).log()
