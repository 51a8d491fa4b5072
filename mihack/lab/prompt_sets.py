"""Sets of clean and corrupt prompts, and the check of every token that they are made of.

The families themselves are in prompts.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class PromptError(ValueError):
    """A set of prompts cannot be made with this tokenizer; the message names prompt and tokens."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one template. Row i of ``clean`` and of ``corrupt`` differ where the answer is decided.

    ``right`` and ``wrong``: the token ids of correct and incorrect answers, per prompt; one each in most
    families.  ``places``: position of each named word in ``clean``, by prompt.
    """

    name: str
    clean: Int[Tensor, "prompt position"]
    corrupt: Int[Tensor, "prompt position"]
    right: tuple[tuple[int, ...], ...]
    wrong: tuple[tuple[int, ...], ...]
    places: Mapping[str, Int[Tensor, "prompt"]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    corrupt_texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many prompts."""
        return len(self.clean)

    @property
    def answers(self) -> Int[Tensor, "prompt 2"]:
        """(right, wrong) token of each prompt. Raises PromptError for families with sets of answers."""
        if any(len(ids) != 1 for ids in (*self.right, *self.wrong)):
            raise PromptError(f"{self.name} has sets of answers: use right and wrong")
        return torch.tensor([[r[0], w[0]] for r, w in zip(self.right, self.wrong, strict=True)])

    def logit_difference(self, logits: Float[Tensor, "prompt position vocab"]) -> Float[Tensor, "prompt"]:
        """Mean logit of the right answers less that of the wrong ones, at the last position, in nats."""
        last = logits[:, -1].float()
        each = [
            row[list(r)].mean() - row[list(w)].mean()
            for row, r, w in zip(last, self.right, self.wrong, strict=True)
        ]
        return torch.stack(each)

    def probability_difference(
        self, logits: Float[Tensor, "prompt position vocab"]
    ) -> Float[Tensor, "prompt"]:
        """Probability of all right answers less that of all wrong ones (Hanna et al. 2023's measure)."""
        last = logits[:, -1].float().softmax(-1)
        each = [
            row[list(r)].sum() - row[list(w)].sum()
            for row, r, w in zip(last, self.right, self.wrong, strict=True)
        ]
        return torch.stack(each)

    def differences(self) -> list[tuple[int, ...]]:
        """For each prompt, the positions at which clean and corrupt differ."""
        pairs = zip(self.clean, self.corrupt, strict=True)
        return [tuple((a != b).nonzero()[:, 0].tolist()) for a, b in pairs]

    def to(self, device: Any) -> PromptSet:
        """The same set with its tokens on ``device``."""
        return PromptSet(
            **{**self.__dict__, "clean": self.clean.to(device), "corrupt": self.corrupt.to(device)}
        )


@dataclass(frozen=True)
class Row:
    """What to fill in: the words of a prompt, those of its corrupt version, and the answers as text."""

    slots: Mapping[str, str]
    corrupt: Mapping[str, str]
    right: Sequence[str]
    wrong: Sequence[str]


class Words:
    """A tokenizer, asked about single words and templates.

    In a template ``{name}`` is a word (with the space before it), ``<...>`` is encoded by itself, and
    all else in one piece with its surroundings.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer is None:
            raise PromptError("the model has no tokenizer: these prompts are text (induction needs none)")
        self.tokenizer = tokenizer
        self.bos: int | None = getattr(tokenizer, "bos_token_id", None)

    def encode(self, text: str) -> list[int]:
        """Token ids, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(self, text: str) -> list[str]:
        """Each token of ``text`` as text."""
        return [self.tokenizer.decode([one]) for one in self.encode(text)]

    def shown(self, words: Sequence[str]) -> str:
        """Words with the tokens they are split into, the first five."""
        listed = "; ".join(f"{word} is {self.tokens(' ' + word)}" for word in words[:5])
        return listed + (f"; and {len(words) - 5} more" if len(words) > 5 else "")

    def single(self, words: Sequence[str], least: int) -> list[str]:
        """Those of ``words`` that are one token after a space. Raises PromptError if too few are."""
        good = [word for word in words if len(self.encode(" " + word)) == 1]
        if len(good) < least:
            split = [word for word in words if word not in good]
            raise PromptError(
                f"needs {least} words of one token, has {len(good)} of {len(words)}: {self.shown(split)}"
            )
        return good

    def fill(self, name: str, template: str, rows: Sequence[Row]) -> PromptSet:
        """The set: every row's template filled in, tokenised, and checked. Raises PromptError."""
        clean = [self._encoded(name, template, row.slots) for row in rows]
        corrupt = [self._encoded(name, template, row.corrupt) for row in rows]
        shape = (len(clean[0][0]), clean[0][1])
        for ids, places, text in (*clean, *corrupt):
            if len(ids) != shape[0] or places != shape[1]:
                raise PromptError(
                    f"{name}: {text!r} has {len(ids)} tokens, others {shape[0]}: {self._each(ids)}"
                )
        start = [] if self.bos is None else [self.bos]
        return PromptSet(
            name,
            torch.tensor([start + ids for ids, _, _ in clean]),
            torch.tensor([start + ids for ids, _, _ in corrupt]),
            tuple(tuple(self._answer(name, text) for text in row.right) for row in rows),
            tuple(tuple(self._answer(name, text) for text in row.wrong) for row in rows),
            {word: torch.full((len(rows),), place + len(start)) for word, place in shape[1].items()},
            tuple(text for _, _, text in clean),
            tuple(text for _, _, text in corrupt),
        )

    def _encoded(
        self, name: str, template: str, slots: Mapping[str, str]
    ) -> tuple[list[int], dict[str, int], str]:
        """(ids, place of the last token of each slot, text) of one prompt."""
        ids: list[int] = []
        places: dict[str, int] = {}
        whole = ""
        for part in re.split(r"(<[^<>]*>)", template):
            apart = part.startswith("<")
            text = part.strip("<>") if apart else part
            filled = text.format(**slots)
            encoded = self.encode(filled)
            for match in re.finditer(r"\{(\w+)\}", text):
                before = text[: match.end()].format(**slots)
                head = self.encode(before)
                if encoded[: len(head)] != head:
                    merged = self._each(encoded)
                    raise PromptError(f"{name}: in {filled!r} {before!r} does not end a token: {merged}")
                places.setdefault(match.group(1), len(ids) + len(head) - 1)
            ids += encoded
            whole += filled
        return ids, places, whole

    def _answer(self, name: str, text: str) -> int:
        ids = self.encode(text)
        if len(ids) != 1:
            raise PromptError(f"{name}: the answer {text!r} is {len(ids)} tokens: {self._each(ids)}")
        return ids[0]

    def _each(self, ids: Sequence[int]) -> list[str]:
        return [self.tokenizer.decode([one]) for one in ids]
