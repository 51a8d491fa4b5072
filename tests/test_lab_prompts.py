"""Prompt families: clean and corrupt rows that differ where they should, aligned token by token."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from mihack.lab import prompts  # noqa: E402
from mihack.lab.prompts import FAMILIES, PromptError, Words, greater_than, induction, ioi, successor  # noqa: E402

LISTS = (
    *(prompts.NAMES, prompts.WOMEN, prompts.MEN, prompts.PLACES, prompts.OBJECTS, prompts.EVENTS),
    *(prompts.ARGUMENTS, prompts.FILLER, prompts.TITLES, *prompts.SERIES.values()),
)
PLAIN = (
    "When and went to the gave a lasted from year So is really great friend isn't The order self run def "
    "param he she"
)
ENGLISH = [word for words in (*LISTS, PLAIN.split()) for word in words]
LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def tokenizer(words: list[str], numbers: str) -> Any:
    """One token for each of ``words`` with a space before it, for numbers as told, else for a character."""
    whole = [f" {word}" for word in words]
    known = dict.fromkeys(["<bos>", *LETTERS, *whole, *(f"{n:02}" for n in range(100)), " 17"])
    known |= dict.fromkeys(f" {n}" for n in range(10, 20))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<bos>"))
    listed = "|".join(sorted((f" {word}(?![A-Za-z])" for word in words), reverse=True))
    pattern = f"{listed}|{' ?[0-9][0-9]' if numbers == 'pairs' else '[0-9]'}|.|\n"
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    inner.decoder = decoders.Fuse()
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=inner, bos_token="<bos>", unk_token="<bos>")


@pytest.fixture(scope="module")
def english() -> Any:
    return tokenizer(ENGLISH, "pairs")


class TestEveryFamily:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_all_rows_have_the_same_places(self, english: Any, name: str) -> None:
        made = FAMILIES[name](english, count=12)
        assert made.clean.shape == made.corrupt.shape
        assert len(made) == len(made.right) == len(made.wrong) == len(made.texts) == 12
        assert (made.clean[:, 0] == english.bos_token_id).all()

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_tokens_read_as_the_text(self, english: Any, name: str) -> None:
        made = FAMILIES[name](english, count=6)
        for row, text in zip((*made.clean, *made.corrupt), (*made.texts, *made.corrupt_texts), strict=True):
            assert english.decode(row[1:].tolist()) == text

    @pytest.mark.parametrize("name", FAMILIES)
    def test_corrupt_differs_before_the_end(self, english: Any, name: str) -> None:
        made = FAMILIES[name](english, count=12)
        for places in made.differences():
            assert places
            # all of a series moves, its last word too: there the answer is in that word
            assert max(places) < made.clean.shape[1] - (name != "successor")

    @pytest.mark.parametrize("name", FAMILIES)
    def test_right_and_wrong_never_meet(self, english: Any, name: str) -> None:
        made = FAMILIES[name](english, count=12)
        assert all(not set(r) & set(w) for r, w in zip(made.right, made.wrong, strict=True))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_seed_alone_decides(self, english: Any, name: str) -> None:
        one, two, other = (FAMILIES[name](english, count=8, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(one.clean, two.clean)
        assert not torch.equal(one.clean, other.clean)

    def test_a_model_without_a_tokenizer_is_told_of_the_family_that_needs_none(self) -> None:
        with pytest.raises(PromptError, match="induction needs none"):
            ioi(None)


class TestIoi:
    def test_half_name_the_indirect_object_first(self, english: Any) -> None:
        made = ioi(english, count=20)
        assert int((made.places["IO"] < made.places["S1"]).sum()) == 10

    def test_roles_hold_the_names(self, english: Any) -> None:
        made = ioi(english, count=20)
        row = torch.arange(20)
        assert torch.equal(made.clean[row, made.places["IO"]], made.answers[:, 0])
        for role in ("S1", "S2"):
            assert torch.equal(made.clean[row, made.places[role]], made.answers[:, 1])

    def test_a_swap_names_the_indirect_object_twice(self, english: Any) -> None:
        made = ioi(english, count=8)
        assert torch.equal(made.corrupt[torch.arange(8), made.places["S2"]], made.answers[:, 0])
        assert all(len(places) == 1 for places in made.differences())

    def test_other_names_leave_no_name_twice(self, english: Any) -> None:
        made = ioi(english, count=8, corrupt="other names")
        for row, (io, s) in zip(made.corrupt, made.answers, strict=True):
            assert (row == io).sum() == 1
            assert (row == s).sum() == 1

    def test_an_unknown_corruption_is_refused(self, english: Any) -> None:
        with pytest.raises(PromptError, match="other names"):
            ioi(english, corrupt="noise")


class TestGreaterThan:
    def test_pairs_of_digits(self, english: Any) -> None:
        made = greater_than(english, count=20)
        for text, right, wrong in zip(made.texts, made.right, made.wrong, strict=True):
            year = int(text.split(" to the")[0][-2:])
            assert {int(english.decode([i])) for i in right} == set(range(year + 1, 100))
            assert {int(english.decode([i])) for i in wrong} == set(range(2, year + 1))
        assert all(text.split(" to the")[0].endswith("01") for text in made.corrupt_texts)

    def test_digit_by_digit_leaves_out_the_decade_itself(self) -> None:
        one = tokenizer(ENGLISH, "digits")
        made = greater_than(one, count=20)
        for text, right, wrong in zip(made.texts, made.right, made.wrong, strict=True):
            decade = int(text.split(" to the")[0][-2])
            assert {int(one.decode([i])) for i in right} == set(range(decade + 1, 10))
            assert {int(one.decode([i])) for i in wrong} == set(range(decade))

    def test_sets_of_answers_are_no_pair(self, english: Any) -> None:
        with pytest.raises(PromptError, match="sets of answers"):
            _ = greater_than(english, count=2).answers


class TestTokenizersThatSplitWords:
    def test_split_words_are_never_used(self) -> None:
        known = [word for word in ENGLISH if word not in ("Mary", "John", "store")]
        made = ioi(tokenizer(known, "pairs"), count=40)
        assert not any(word in text for text in made.texts for word in ("Mary", "John", "store"))

    def test_too_few_words_names_words_and_their_tokens(self) -> None:
        with pytest.raises(PromptError, match=r"needs 3 words of one token, has 0 of 28: Mary is \[' ', 'M'"):
            ioi(tokenizer(PLAIN.split(), "pairs"))

    def test_a_series_with_a_split_word_is_refused(self) -> None:
        known = [word for word in ENGLISH if word != "Friday"]
        with pytest.raises(PromptError, match="Friday is"):
            successor(tokenizer(known, "pairs"), "days")

    def test_an_answer_of_several_tokens_is_refused(self, english: Any) -> None:
        row = prompts.Row({"a": "Mary"}, {"a": "John"}, [" Nobody"], [" Tom"])
        with pytest.raises(PromptError, match="the answer ' Nobody' is 7 tokens"):
            Words(english).fill("test", "So {a}", [row])

    def test_rows_of_unequal_length_are_refused(self, english: Any) -> None:
        rows = [prompts.Row({"a": word}, {"a": "John"}, [" he"], [" she"]) for word in ("Mary", "Nobody")]
        with pytest.raises(PromptError, match="'So Nobody is' has 10 tokens, others 4"):
            Words(english).fill("test", "So {a} is", rows)


class TestInduction:
    @settings(max_examples=40, deadline=None)
    @given(period=st.integers(3, 30), seed=st.integers(0, 99), bos=st.sampled_from([None, 0]))
    def test_the_answer_followed_the_last_token_before(self, period: int, seed: int, bos: int | None) -> None:
        made = induction(64, count=4, period=period, seed=seed, bos=bos)
        for row, other, (right, wrong) in zip(made.clean, made.corrupt, made.answers, strict=True):
            places = (row[:-1] == row[-1]).nonzero()[:, 0]
            assert row[places[0] + 1] == right
            assert not (other[:-1] == other[-1]).any()
            assert right != wrong
        row = torch.arange(4)
        assert torch.equal(made.clean[row, made.places["next"]], made.answers[:, 0])

    def test_too_few_tokens_are_refused(self) -> None:
        with pytest.raises(PromptError, match="needs 12"):
            induction(10, period=10)


class TestMeasures:
    def test_logit_difference_of_one_answer_each(self, english: Any) -> None:
        made = ioi(english, count=3)
        logits = torch.zeros(3, made.clean.shape[1], len(english))
        logits[torch.arange(3), -1, made.answers[:, 0]] = 2.0
        logits[torch.arange(3), -1, made.answers[:, 1]] = -1.0
        assert torch.allclose(made.logit_difference(logits), torch.full((3,), 3.0))

    def test_probability_difference_sums_over_answers(self, english: Any) -> None:
        made = greater_than(english, count=3)
        logits = torch.zeros(3, made.clean.shape[1], len(english))
        wanted = [(len(r) - len(w)) / len(english) for r, w in zip(made.right, made.wrong, strict=True)]
        assert torch.allclose(made.probability_difference(logits), torch.tensor(wanted), atol=1e-6)
